"""Run jobs in forked processes: a limited number at once, with readable output. No process is left behind.

A job is a function. The parent hands one job at a time to a process, so it always knows which job the process holds.
The process reports how the job ended. If a process ends without this report, the job that it holds has failed.
"""

import contextlib
import gc
import io
import multiprocessing
import os
import select
import selectors
import signal
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections import deque
from datetime import datetime
from typing import IO, Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

GRACE = 5.0  # How many seconds interrupted processes have to end by themselves.
POLL = 0.05  # How many seconds to wait for a free slot before looking again.
# How many seconds to wait for output before looking for ended processes. The selector does not see the end of a process
# whose own children live on, because they keep the pipe open.
SAFETY_POLL = 1.0
ENDING_POLL = 0.001  # The same for a process that has closed its files. It ends within a millisecond.

OWN_SLOT = 0  # the slot that each process has

FROM_CHILD = ("stdout", "stderr", "report")  # the pipes that the child writes to

_REPORT_BYTES = 4096  # A pipe accepts this many bytes at once.
_REPORT_END = b"\0"
_STOP = b"\xff\xff\xff\xff"  # What a process receives instead of the index of its next job.


class Slots:
    """Slots that a process and all its descendants share. They limit how many of these processes work at once.

    Each process has one slot of its own, which it lends to one of its children while it waits for them. So nested
    processes cannot deadlock. The other slots are record locks on the bytes of a file. The kernel frees the locks of a
    killed process, and a child does not inherit them. `count` processes may work at once.
    """

    def __init__(self, count: int) -> None:
        self._shared = range(1, count)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def take(self, taken: Set[int]) -> Optional[int]:
        """Take a free slot and return it; None if all are taken. `taken` are the slots that this process holds."""
        import fcntl  # Windows has none.

        if OWN_SLOT not in taken:
            return OWN_SLOT
        for slot in self._shared:
            if slot not in taken:
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                    return slot
        return None

    def give_back(self, slot: int) -> None:
        """Give back a slot."""
        import fcntl

        if slot != OWN_SLOT:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)


class JobResult(NamedTuple):
    """How a job has ended."""

    job: int
    """The index of the job."""
    reason: str
    """Why it did not return; empty if it did."""
    started: datetime
    """When it was handed to its process, as local time without a zone."""


def run(
    jobs: Sequence[Callable[[], None]],
    slots: Slots,
    on_failure: Callable[[int, JobResult], None],
    at_end: Callable[[], None] = lambda: None,
) -> None:
    """Run each job in a forked process, and wait until all have ended.

    A process gets its next job when its job has returned. If a job fails, its process ends, and a new one takes its
    place. Each job starts with the environment variables, the working folder and the import path of this process. The
    next job in the same process sees what a job has changed in memory.

    The output of the jobs appears on stdout and stderr line by line. The jobs have no stdin. The processes end when
    this process ends, however it ends.

    `on_failure` is called with the index of a job that raised, or whose process was killed or exited. If the process
    was killed, the processes that it had started are killed first. `at_end` is called in each process before it exits.
    """
    waiting = deque(range(len(jobs)))
    with _open_lifeline() as lifeline, selectors.DefaultSelector() as selector:
        workers: List[_Worker] = []
        try:
            while waiting or workers:
                is_full = False
                while waiting and not is_full:
                    slot = slots.take({worker.slot for worker in workers})
                    is_full = slot is None
                    if slot is not None:
                        # Append before the start, so that Ctrl-C during the fork leaves no process behind.
                        workers.append(_Worker(jobs, waiting.popleft(), at_end, slot))
                        workers[-1].start(lifeline, selector)
                _relay_output(workers, selector, POLL if is_full else SAFETY_POLL)
                for worker in list(workers):
                    # Ask only once, and before the report is read. If the process has ended, its report is complete,
                    # and it gets no other job. If it ends later, the next round handles the job that it holds then.
                    has_ended = worker.has_ended()
                    outcome = worker.take_outcome(has_ended)
                    if outcome and outcome.reason:
                        on_failure(outcome.job, outcome)
                    elif outcome and not has_ended:
                        worker.assign(waiting)
                    if has_ended:
                        workers.remove(worker)
                        worker.close(selector)
                        slots.give_back(worker.slot)
        except BaseException:
            _interrupt(workers, selector)
            raise


class _Worker:
    """A forked process, and the pipes to and from it."""

    def __init__(self, jobs: Sequence[Callable[[], None]], job: int, at_end: Callable[[], None], slot: int) -> None:
        self.slot = slot
        self.is_ending = False
        self._jobs = jobs
        self._at_end = at_end
        self._job: Optional[int] = job  # The index of the job that the process holds.
        self._started = datetime.now()
        self._report = b""
        # The pieces of a line that has not ended. Joined only once, so that a long line takes linear time.
        self._partial_lines: Dict[str, List[bytes]] = {"stdout": [], "stderr": []}
        self._readers: Dict[str, int] = {}
        self._writers: Dict[str, int] = {}
        self._lifeline = (-1, -1)
        self._process = multiprocessing.get_context("fork").Process(target=self._run)

    def start(self, lifeline: Tuple[int, int], selector: selectors.BaseSelector) -> None:
        """Fork, and have the selector watch the pipes."""
        self._lifeline = lifeline
        for name in ("stdout", "stderr", "report", "next job"):
            self._readers[name], self._writers[name] = os.pipe()
        # In the child, the garbage collector would write to the objects that both share, and so copy their memory.
        gc.freeze()
        try:
            self._process.start()
        finally:
            if multiprocessing.parent_process() is None:  # A child keeps frozen what it shares with its parent.
                gc.unfreeze()
            for name in FROM_CHILD:
                os.close(self._writers.pop(name))
            os.close(self._readers.pop("next job"))
        for name in FROM_CHILD:
            selector.register(self._readers[name], selectors.EVENT_READ, (self, name))
        selector.register(self._process.sentinel, selectors.EVENT_READ, (self, "sentinel"))

    def assign(self, waiting: Deque[int]) -> None:
        """Hand the next job to the process. If no job is left, let the process end."""
        message = waiting[0].to_bytes(len(_STOP), "big") if waiting else _STOP
        try:
            os.write(self._writers["next job"], message)
        except BrokenPipeError:  # The process was killed. Another one gets the job.
            return
        if waiting:
            self._job = waiting.popleft()
            self._started = datetime.now()

    def handle(self, name: str, selector: selectors.BaseSelector) -> None:
        """Read a pipe that is ready, or note that the process is ending."""
        if name == "sentinel":
            self.is_ending = True
            selector.unregister(self._process.sentinel)
        elif not self._read(name):
            selector.unregister(self._readers[name])

    def is_started(self) -> bool:
        """Return True if the process has been forked."""
        return self._process.pid is not None

    def has_ended(self) -> bool:
        """Return True if the process has ended, and reap it."""
        return self._process.exitcode is not None

    def take_outcome(self, has_ended: bool) -> Optional[JobResult]:
        """Return how the job that the process holds has ended; None if it has not, or if the process holds none."""
        if self._job is None or not (has_ended or self._report.endswith(_REPORT_END)):
            return None
        self._finish_output()
        outcome = JobResult(self._job, self._read_reason(), self._started)
        self._job, self._report = None, b""
        return outcome

    def close(self, selector: selectors.BaseSelector) -> None:
        """Write the rest of the output of an ended process, and close the pipes."""
        self._finish_output()
        for reader in (*self._readers.values(), self._process.sentinel):
            with contextlib.suppress(KeyError):
                selector.unregister(reader)
        for end in (*self._readers.values(), *self._writers.values()):
            os.close(end)
        self._process.close()

    def send(self, signal_number: int) -> None:
        """Send a signal to the process and to what it has started, such as a shell command."""
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses to signal a zombie.
                os.killpg(self._process.pid, signal_number)

    def kill(self) -> None:
        """Kill the process and reap it."""
        if self.is_started():
            self.send(signal.SIGKILL)
            self._process.kill()  # It may not have its own process group yet.
            self._process.join()

    def _read(self, name: str) -> bool:
        """Read what a pipe holds, and write the complete lines. Return False at its end."""
        data = os.read(self._readers[name], 1 << 16)
        if name == "report":
            self._report += data
        else:
            lines, newline, rest = data.rpartition(b"\n")
            if newline:
                _write(name, b"".join([*self._partial_lines[name], lines, newline]))
                self._partial_lines[name] = []
            if rest:
                self._partial_lines[name].append(rest)
        return bool(data)

    def _drain(self, name: str, timeout: float) -> None:
        """Read a pipe until its end, or until nothing has come for `timeout` seconds."""
        while select.select([self._readers[name]], [], [], timeout)[0]:
            if not self._read(name):
                return

    def _finish_output(self) -> None:
        """Write the rest of the output of a job, which may lack a newline at its end."""
        for name in self._partial_lines:
            # Do not wait for the end of the pipe. A child of the process may keep it open.
            self._drain(name, timeout=0)
            rest, self._partial_lines[name] = self._partial_lines[name], []
            if rest:
                _write(name, b"".join([*rest, b"\n"]))

    def _read_reason(self) -> str:
        """Return why the job that the process holds has failed; an empty text if it has not."""
        self._drain("report", timeout=0)
        if self._report.endswith(_REPORT_END):
            return self._report[:-1].decode("utf-8", "replace")
        # The process was killed or exited. Its children have inherited the pipe, which ends when they, too, have ended.
        exitcode = self._process.exitcode or 0
        if exitcode:
            self.send(signal.SIGKILL)
        self._drain("report", GRACE)
        if exitcode >= 0:
            return f"The process exited with code {exitcode} before the end."
        hint = " Linux does that when memory runs out." if exitcode == -signal.SIGKILL else ""
        return f"The process was killed by {signal.Signals(-exitcode).name}.{hint}"

    def _run(self) -> None:
        """In the child: run the jobs that the parent assigns, and report how they end."""
        self._detach()
        reason = b""
        with contextlib.suppress(KeyboardInterrupt):
            while self._job is not None and not reason:
                reason = self._call(self._jobs[self._job])
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                os.write(self._writers["report"], reason[: _REPORT_BYTES - 1] + _REPORT_END)
                message = _STOP if reason else os.read(self._readers["next job"], len(_STOP))
                self._job = None if message == _STOP else int.from_bytes(message, "big")
        self._at_end()
        sys.exit(1 if reason else 0)

    def _call(self, job: Callable[[], None]) -> bytes:
        """Run a job, and return why it failed; an empty text if it did not."""
        try:
            # The parent or an earlier job may have changed the handler.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with _restored_state(), _end_of_copies():
                job()
        except KeyboardInterrupt:
            return b"It was interrupted."
        except SystemExit as error:
            return f"It called sys.exit({'' if error.code is None else repr(error.code)}).".encode()
        except BaseException as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").replace(_REPORT_END, b"")
        return b""

    def _detach(self) -> None:
        """In the child: start a session, redirect the output, and end when the parent ends."""
        # Its own process group, so that a signal also reaches what it starts. Its own session, because the terminal
        # stops a background group that reads from it.
        os.setsid()
        reader, writer = self._lifeline
        os.close(writer)
        _have_kernel_kill_group_at_end(reader)
        threading.Thread(target=_die_with_parent, args=(reader,), daemon=True).start()
        for fd, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(self._writers[name], fd)
            os.close(self._writers[name])
            setattr(sys, name, _line_buffered(getattr(sys, name), fd))


def _relay_output(workers: Sequence[_Worker], selector: selectors.BaseSelector, timeout: float) -> None:
    """Write the output of processes, as soon as there is any."""
    for key, _ in selector.select(ENDING_POLL if any(worker.is_ending for worker in workers) else timeout):
        worker, name = key.data
        worker.handle(name, selector)


def _interrupt(workers: List[_Worker], selector: selectors.BaseSelector) -> None:
    """Interrupt all processes, and kill those that do not end."""
    give_up_at = time.monotonic() + GRACE
    try:
        for worker in workers:
            worker.send(signal.SIGINT)
        while time.monotonic() < give_up_at and any(each.is_started() and not each.has_ended() for each in workers):
            _relay_output(workers, selector, POLL)
    finally:
        started = [worker for worker in workers if worker.is_started()]
        for worker in started:
            worker.kill()
        for worker in started:
            worker.close(selector)


@contextlib.contextmanager
def _open_lifeline() -> Iterator[Tuple[int, int]]:
    """Open a pipe that nothing is written to. Its readers see its end when this process ends, however that happens."""
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def _have_kernel_kill_group_at_end(lifeline: int) -> None:
    """On Linux, have the kernel kill this process group at the end of the parent.

    A thread cannot do it while a job holds the GIL, or is stopped. PR_SET_PDEATHSIG would spare what a job has started.
    """
    import fcntl

    with contextlib.suppress(AttributeError, OSError):  # macOS has no F_SETSIG and no /proc.
        # Opened anew, because an inherited descriptor shares its owner with the other processes. It stays open.
        own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC)


def _die_with_parent(lifeline: int) -> None:
    """Wait for the end of the parent, then kill this process and what it has started."""
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


@contextlib.contextmanager
def _end_of_copies() -> Iterator[None]:
    """End a copy of this process, which a job has forked, where it would leave the job.

    Such a copy would report through the pipes of its parent, and take its next job.
    """
    pid, code = os.getpid(), 0
    try:
        yield
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    except BaseException:
        code = 1
        if os.getpid() != pid:
            traceback.print_exc()
        raise
    finally:
        if os.getpid() != pid:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code & 0xFF)


@contextlib.contextmanager
def _restored_state() -> Iterator[None]:
    """Restore the environment variables, the working folder and the import path at the end."""
    environment, folder, path = dict(os.environ), os.getcwd(), list(sys.path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:] = path


def _line_buffered(stream: Any, fd: int) -> IO[str]:
    """Return a line-buffered stream to `fd`: `stream` itself, or a new one if `stream` writes elsewhere.

    In a notebook, `stream` writes elsewhere.
    """
    if isinstance(stream, io.TextIOWrapper):
        with contextlib.suppress(OSError):
            if stream.fileno() == fd:
                stream.reconfigure(line_buffering=True)
                return stream
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _write(name: str, data: bytes) -> None:
    stream = getattr(sys, name)
    stream.flush()
    if hasattr(stream, "buffer"):
        stream.buffer.write(data)
    else:
        stream.write(data.decode("utf-8", "replace"))
    stream.flush()

"""Run functions in forked processes: a limited number at once, with readable output, and none left behind."""

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
SAFETY_POLL = 1.0  # A process that an ended one left behind may hide its end from the selector.
ENDING_POLL = 0.001  # Between closing its files and its end, a process needs less than a millisecond.

_DONE = b"\0"
_REPORT_BYTES = 4096  # A pipe takes so many without waiting for the reader.


class Failure(NamedTuple):
    """Why a function did not return."""

    reason: str
    started: datetime
    """When its process started, as local time without a zone."""


class Slots:
    """The slots that a process and all its descendants share, so that a limited number of them work at once.

    Each process has one slot by itself, which it lends to one of its children while it waits for them. So nested
    processes cannot wait for each other. The other slots are record locks on the bytes of a file: the kernel frees
    those of a killed process, and a child does not inherit them.

    Args:
        count: How many processes work at once.
    """

    def __init__(self, count: int) -> None:
        self._shared = range(count - 1)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def take(self, own: Set[Optional[int]]) -> Tuple[bool, Optional[int]]:
        """Take a slot that is free.

        Args:
            own: The slots that this process has taken. None is the one that it has by itself.

        Returns:
            Whether there was one, and the slot.
        """
        import fcntl

        if None not in own:
            return True, None
        for slot in self._shared:
            if slot not in own:
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                    return True, slot
        return False, None

    def give_back(self, slot: Optional[int]) -> None:
        """Give back a slot."""
        import fcntl

        if slot is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)


def run(jobs: Sequence[Callable[[], None]], slots: Slots, on_failure: Callable[[int, Failure], None]) -> None:
    """Run each function in a forked process, and wait until all have ended.

    What they write to stdout and stderr appears there line by line. They have no stdin. They end when this process
    ends, however it ends.

    Args:
        jobs: The functions. They are started in this order.
        slots: Limits how many run at once.
        on_failure: Called with the index of a function that raised, or whose process was killed or exited. None of
            its descendants runs any more.
    """
    waiting = deque(enumerate(jobs))
    with _open_lifeline() as lifeline, selectors.DefaultSelector() as selector:
        workers: List[_Worker] = []
        try:
            while waiting or workers:
                is_full = _start_workers(waiting, workers, slots, lifeline, selector)
                for worker in _wait_for_ended(workers, selector, POLL if is_full else SAFETY_POLL):
                    workers.remove(worker)
                    slots.give_back(worker.slot)
                    failure = worker.find_failure()
                    if failure:
                        on_failure(worker.index, failure)
        except BaseException:
            _interrupt(workers, selector)
            raise


class _Worker:
    """A forked process and the pipes from it."""

    def __init__(self, index: int, work: Callable[[], None], slot: Optional[int]) -> None:
        self.index = index
        self.slot = slot
        self.started = datetime.now()
        self.is_ending = False
        self._work = work
        self._partial_lines: Dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._process = multiprocessing.get_context("fork").Process(target=self._run)
        self._readers: Dict[str, int] = {}
        self._writers: Dict[str, int] = {}
        self._lifeline: Tuple[int, int] = (-1, -1)

    def start(self, lifeline: Tuple[int, int], selector: selectors.BaseSelector) -> None:
        """Fork, and have the selector watch the pipes."""
        self._lifeline = lifeline
        for name in ("stdout", "stderr", "report"):
            self._readers[name], self._writers[name] = os.pipe()
        # In the child, the garbage collector would write to the objects that both share, and so copy their memory.
        gc.freeze()
        try:
            self._process.start()
        finally:
            if multiprocessing.parent_process() is None:  # A child keeps frozen what it shares with its parent.
                gc.unfreeze()
            for writer in self._writers.values():
                os.close(writer)
        for name in self._partial_lines:
            selector.register(self._readers[name], selectors.EVENT_READ, (self, name))
        selector.register(self._process.sentinel, selectors.EVENT_READ, (self, "sentinel"))

    def handle(self, name: str, selector: selectors.BaseSelector) -> None:
        """Handle that a pipe is ready."""
        if name == "sentinel":
            self.is_ending = True
            selector.unregister(self._process.sentinel)
        elif not self._relay(name):
            selector.unregister(self._readers[name])

    def is_started(self) -> bool:
        """Return True if the process has been forked."""
        return self._process.pid is not None

    def has_ended(self) -> bool:
        """Return True if the process has ended, and reap it."""
        return self._process.exitcode is not None

    def finish(self, selector: selectors.BaseSelector) -> None:
        """Write the rest of the output of an ended process."""
        for name in self._partial_lines:
            # Not until the end of the file, because a process that was left behind may keep it open.
            while select.select([self._readers[name]], [], [], 0)[0] and self._relay(name):
                pass
            if self._partial_lines[name]:
                self._write(name, b"\n")
        for fd in (*self._readers.values(), self._process.sentinel):
            with contextlib.suppress(KeyError):
                selector.unregister(fd)

    def find_failure(self) -> Optional[Failure]:
        """Return why the function did not return; None if it did."""
        report = self._read_report()
        for reader in self._readers.values():
            os.close(reader)
        exitcode = self._process.exitcode
        self._process.close()
        if report == _DONE:
            return None
        if report:
            reason = report.decode("utf-8", "replace")
        elif exitcode is not None and exitcode < 0:
            reason = f"The process was killed by {signal.Signals(-exitcode).name}."
            if exitcode == -signal.SIGKILL:
                reason += " Linux does that when memory runs out."
        else:
            reason = f"The process exited with code {exitcode} before the end."
        return Failure(reason, self.started)

    def send(self, signal_number: int) -> None:
        """Send a signal to the process and to what it has started, such as a shell command."""
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: it is a zombie.
                os.killpg(self._process.pid, signal_number)

    def kill(self) -> None:
        """Kill the process and reap it."""
        if self.is_started():
            self.send(signal.SIGKILL)
            self._process.kill()  # It may not have its own process group yet.
            self._process.join()

    def _relay(self, name: str) -> bool:
        """Write the complete lines among what can be read. Return False at the end of the file."""
        data = os.read(self._readers[name], 1 << 16)
        lines, newline, self._partial_lines[name] = (self._partial_lines[name] + data).rpartition(b"\n")
        if newline:
            _write(name, lines + newline)
        return bool(data)

    def _write(self, name: str, end: bytes) -> None:
        data, self._partial_lines[name] = self._partial_lines[name], b""
        _write(name, data + end)

    def _read_report(self) -> bytes:
        """Return what the process reported. Without a report, wait until its own children have ended, too.

        They have inherited the pipe, so its end is theirs.
        """
        reader, report, give_up_at = self._readers["report"], b"", time.monotonic() + GRACE
        if self._process.exitcode:
            self.send(signal.SIGKILL)
        while report != _DONE and select.select([reader], [], [], max(give_up_at - time.monotonic(), 0))[0]:
            data = os.read(reader, _REPORT_BYTES)
            if not data:
                break
            report += data
        return report

    def _run(self) -> None:
        """Run the function in the child, and report how it ended."""
        self._detach()
        exitcode = 1
        try:
            self._work()
            report, exitcode = _DONE, 0
        except KeyboardInterrupt:
            report = b"It was interrupted."
        except SystemExit as error:
            report = f"It called sys.exit({'' if error.code is None else repr(error.code)}).".encode()
        except BaseException as error:
            traceback.print_exc()
            report = f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace")
        os.write(self._writers["report"], report[:_REPORT_BYTES])
        sys.exit(exitcode)

    def _detach(self) -> None:
        """Give the child its own session and output, and have it end with its parent."""
        # Its own process group, so that a signal also reaches what it starts. Its own session, because the terminal
        # stops a background group that reads from it.
        os.setsid()
        reader, writer = self._lifeline
        os.close(writer)
        threading.Thread(target=_die_with_parent, args=(reader,), daemon=True).start()
        signal.signal(signal.SIGINT, _interrupt_once)
        for fd, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(self._writers[name], fd)
            os.close(self._writers[name])
            setattr(sys, name, _line_buffered(getattr(sys, name), fd))


def _start_workers(
    waiting: Deque[Tuple[int, Callable[[], None]]],
    workers: List[_Worker],
    slots: Slots,
    lifeline: Tuple[int, int],
    selector: selectors.BaseSelector,
) -> bool:
    """Start as many as there are slots. Return True if some must wait for a slot."""
    while waiting:
        is_free, slot = slots.take({worker.slot for worker in workers})
        if not is_free:
            return True
        worker = _Worker(*waiting.popleft(), slot)
        workers.append(worker)  # First, so that Ctrl-C during the fork does not leave it behind.
        worker.start(lifeline, selector)
    return False


def _wait_for_ended(workers: Sequence[_Worker], selector: selectors.BaseSelector, timeout: float) -> Iterator[_Worker]:
    """Write the output of processes for a while, and yield those that have ended."""
    for key, _ in selector.select(ENDING_POLL if any(worker.is_ending for worker in workers) else timeout):
        worker, name = key.data
        worker.handle(name, selector)
    for worker in list(workers):
        if worker.has_ended():
            worker.finish(selector)
            yield worker


def _interrupt(workers: List[_Worker], selector: selectors.BaseSelector) -> None:
    """Interrupt all processes, and kill those that do not end."""
    give_up_at = time.monotonic() + GRACE
    try:
        for worker in workers:
            worker.send(signal.SIGINT)
        running = [worker for worker in workers if worker.is_started()]
        while running and time.monotonic() < give_up_at:
            for worker in _wait_for_ended(running, selector, POLL):
                running.remove(worker)
    finally:
        for worker in workers:
            worker.kill()


@contextlib.contextmanager
def _open_lifeline() -> Iterator[Tuple[int, int]]:
    """Open a pipe that nothing is written to. Its readers see its end when this process ends, however that happens."""
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def _die_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def _interrupt_once(*_: Any) -> None:
    """Raise KeyboardInterrupt. A second one would interrupt the clean-up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _line_buffered(stream: Any, fd: int) -> IO[str]:
    """Return a stream that writes each line at once: the same one, unless it writes elsewhere, as in a notebook."""
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

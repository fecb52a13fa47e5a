"""Test the forked processes of the executor local-parallel, without magnus."""

import gc
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

import pytest

from magnus_peewee_store.parallel import workers
from magnus_peewee_store.parallel.workers import Slots

KILLED = "The process was killed by SIGKILL. Linux does that when memory runs out."


def run(jobs: List[Callable[[], Any]], count: int = 4) -> Dict[int, str]:
    """Run the jobs. Return the reason of each failed job, by the index of the job."""
    reasons: Dict[int, str] = {}
    workers.run(jobs, Slots(count), lambda index, failure: reasons.update({index: failure.reason}))
    return reasons


def wait_for(*files: Path) -> None:
    """Wait until files exist, created by other processes."""
    deadline = threading.Event()
    for _ in range(6000):
        if all(file.exists() for file in files):
            return
        deadline.wait(0.01)
    raise AssertionError(f"{files} were not created.")


def meet(folder: Path, name: str, *others: str) -> None:
    """Wait until all are here at the same time."""
    (folder / name).touch()
    wait_for(*(folder / other for other in others))


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_error() -> None:
    raise ValueError("failed on purpose")


def test_jobs_run_at_the_same_time(tmp_path: Path) -> None:
    jobs = [lambda: meet(tmp_path, "a", "b", "c"), lambda: meet(tmp_path, "b", "a"), lambda: meet(tmp_path, "c", "a")]
    assert run(jobs, count=3) == {}


def test_failures_give_their_reason(capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [raise_error, kill_self, lambda: sys.exit(3), lambda: os._exit(0), lambda: None]
    assert run(jobs) == {
        0: "ValueError: failed on purpose",
        1: KILLED,
        2: "It called sys.exit(3).",
        3: "The process exited with code 0 before the end.",
    }
    assert capfd.readouterr().err.count("ValueError: failed on purpose") == 1


def test_process_gets_the_next_job_unless_one_failed(tmp_path: Path) -> None:
    def note() -> None:
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")

    assert list(run([note, note, raise_error, note, kill_self, note, note], count=1)) == [2, 4]
    first, second, third, fourth, fifth = (tmp_path / "pids").read_text().split()
    assert first == second != third != fourth == fifth


@pytest.mark.parametrize(("leave", "code"), [(lambda: sys.exit(3), 3), (sys.exit, 0), (int, 0), (raise_error, 1)])
def test_copy_forked_by_a_job_ends_without_a_report(tmp_path: Path, leave: Callable[[], Any], code: int) -> None:
    """The copy would report, and take the next job."""

    def fork() -> None:
        pid = os.fork()
        if not pid:
            leave()
            return
        assert os.waitpid(pid, 0)[1] >> 8 == code

    def note() -> None:
        with (tmp_path / "noted").open("a") as file:
            file.write("x")

    assert run([fork, note, note], count=1) == {}
    assert (tmp_path / "noted").read_text() == "xx"


def test_long_line_is_kept_in_pieces(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining each piece to those before takes quadratic time."""
    longest: List[int] = []
    read = workers._Worker._read

    def read_and_measure(worker: Any, name: str) -> bool:
        result = read(worker, name)
        longest.extend(len(piece) for pieces in worker._partial_lines.values() for piece in pieces[-1:])
        return result

    monkeypatch.setattr(workers._Worker, "_read", read_and_measure)
    assert run([lambda: print("x" * 1_000_000)]) == {}
    assert capfd.readouterr().out == "x" * 1_000_000 + "\n"
    assert max(longest) <= 1 << 16


def kill(worker: Any) -> None:
    """Kill a worker process, and wait until it has ended. The test's parent process has not noticed it yet."""
    os.kill(worker._process.pid, signal.SIGKILL)
    wait_for_end(worker)


def wait_for_end(worker: Any) -> None:
    os.waitid(os.P_PID, worker._process.pid, os.WEXITED | os.WNOWAIT)


def test_job_that_ends_its_process_at_once_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends after its next job is assigned, and before the parent does anything else."""
    assign = workers._Worker.assign

    def assign_and_wait(worker: Any, waiting: Any) -> None:
        assign(worker, waiting)
        wait_for_end(worker)

    monkeypatch.setattr(workers._Worker, "assign", assign_and_wait)
    assert run([lambda: None, kill_self], count=1) == {1: KILLED}


def test_process_killed_before_it_begins_its_next_job_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assign = workers._Worker.assign

    def assign_to_stopped_process(worker: Any, waiting: Any) -> None:
        os.kill(worker._process.pid, signal.SIGSTOP)
        assign(worker, waiting)
        kill(worker)

    monkeypatch.setattr(workers._Worker, "assign", assign_to_stopped_process)
    jobs = [lambda: None, (tmp_path / "began").touch, lambda: None]
    assert run(jobs, count=1) == {1: KILLED}
    assert not (tmp_path / "began").exists()


def test_killed_process_without_a_job_fails_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assign = workers._Worker.assign

    def kill_and_assign(worker: Any, waiting: Any) -> None:
        kill(worker)
        assign(worker, waiting)

    monkeypatch.setattr(workers._Worker, "assign", kill_and_assign)
    assert run([(tmp_path / name).touch for name in "abc"], count=1) == {}
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_job_that_returned_before_its_process_was_killed_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent reads the report of a process that has already ended."""
    has_ended = workers._Worker.has_ended

    def kill_after_report(worker: Any) -> bool:
        if not worker._report:
            select.select([worker._readers["report"]], [], [])
        kill(worker)
        return has_ended(worker)

    monkeypatch.setattr(workers._Worker, "has_ended", kill_after_report)
    assert run([(tmp_path / name).touch for name in "abc"], count=1) == {}
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_next_job_starts_as_the_first_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "by the parent")

    def change_everything() -> None:
        os.environ["KEPT"] = os.environ["ADDED"] = "by a job"
        del os.environ["PATH"]
        os.chdir(tmp_path)
        sys.path.insert(0, str(tmp_path))
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def check_state() -> None:
        assert (dict(os.environ), os.getcwd(), sys.path) == state
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    state = (dict(os.environ), os.getcwd(), list(sys.path))
    assert run([change_everything, check_state], count=1) == {}


def most_at_once(log: Path) -> int:
    """Return the largest number of jobs that ran at once. Each wrote a line at its start and at its end."""
    changes = [1 if line == "start" else -1 for line in log.read_text().split()]
    return max(sum(changes[: length + 1]) for length in range(len(changes)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_nested_jobs_share_the_slots(tmp_path: Path, count: int) -> None:
    slots = Slots(count)
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def leaf() -> None:
        os.write(log, b"start\n")
        subprocess.run(["true"], check=True)
        os.write(log, b"end\n")

    def nest(depth: int) -> None:
        workers.run([leaf if depth == 0 else lambda: nest(depth - 1)] * 3, slots, lambda *_: os._exit(1))

    nest(2)
    os.close(log)
    assert (tmp_path / "log").read_text().count("end") == 27
    assert 1 <= most_at_once(tmp_path / "log") <= count


def test_slots_of_a_killed_process_are_free_again(tmp_path: Path) -> None:
    slots = Slots(2)

    def hold_all_slots() -> None:
        workers.run([kill_parent, lambda: threading.Event().wait()], slots, lambda *_: None)

    def kill_parent() -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        threading.Event().wait()

    failures: List[int] = []
    workers.run([hold_all_slots], slots, lambda index, failure: failures.append(index))
    assert failures == [0]
    together = [lambda: meet(tmp_path, "a", "b"), lambda: meet(tmp_path, "b", "a")]
    workers.run(together, slots, lambda index, failure: failures.append(index))
    assert failures == [0]


@pytest.mark.parametrize("stream", [1, 2])
def test_lines_are_written_once_and_whole(stream: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def write(name: str) -> None:
        meet(tmp_path, name, "0", "1", "2")
        for number in range(300):
            os.write(stream, f"<{name} {number} {'x' * 150}".encode())
            os.write(stream, f"{'y' * 150}>\n".encode())
        os.write(stream, f"<{name} end without newline".encode())

    assert run([lambda: write("0"), lambda: write("1"), lambda: write("2")]) == {}
    captured = capfd.readouterr()
    lines = (captured.out if stream == 1 else captured.err).splitlines()
    expected = [f"<{name} {number} {'x' * 150}{'y' * 150}>" for name in "012" for number in range(300)]
    assert sorted(lines) == sorted([*expected, *(f"<{name} end without newline" for name in "012")])


def test_output_without_newline_ends_with_its_job(capfd: pytest.CaptureFixture[str]) -> None:
    run([lambda: print("a", end=""), lambda: print("b", end="")], count=1)
    assert capfd.readouterr().out == "a\nb\n"


def test_buffered_output_of_the_parent_appears_once(capfd: pytest.CaptureFixture[str]) -> None:
    print("before", end=" ")
    run([lambda: print("branch")])
    print("after")
    assert capfd.readouterr().out.split() == ["before", "branch", "after"]


def test_output_goes_to_a_replaced_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    run([lambda: print("grüße")])
    assert capsys.readouterr().out == "grüße\n"


def test_stdin_is_empty() -> None:
    assert run([lambda: sys.exit(0 if subprocess.run(["cat"], check=True).returncode == 0 else 1)]) == {
        0: "It called sys.exit(0)."
    }


def test_jobs_do_not_collect_the_objects_of_the_parent(tmp_path: Path) -> None:
    run([lambda: (tmp_path / "frozen").write_text(str(gc.get_freeze_count()))])
    assert int((tmp_path / "frozen").read_text()) > 1000
    assert gc.get_freeze_count() == 0


def children() -> Set[str]:
    """Return the process ids of the children of this process, including zombies."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_no_process_and_no_file_stays_open() -> None:
    gc.collect()
    before = os.listdir("/proc/self/fd")
    children_before = children()
    run([raise_error, kill_self, *[lambda: None] * 10])
    gc.collect()  # the temporary file of the slots
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert children() <= children_before


def test_error_of_the_callback_ends_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "GRACE", 0.1)

    def wait_deafly() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        (tmp_path / "waits").touch()
        threading.Event().wait()

    def fail() -> None:
        wait_for(tmp_path / "waits")
        raise_error()

    def give_up(*_: Any) -> None:
        raise RuntimeError("given up")

    gc.collect()
    before = os.listdir("/proc/self/fd")
    children_before = children()
    with pytest.raises(RuntimeError, match="given up"):
        workers.run([wait_deafly, fail], Slots(2), give_up)
    assert children() <= children_before
    gc.collect()  # the temporary file of the slots
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_killed_job_takes_what_it_started_with_it(tmp_path: Path) -> None:
    def start_and_die() -> None:
        process = subprocess.Popen(["sleep", "1000"])
        (tmp_path / "pid").write_text(str(process.pid))
        kill_self()

    assert run([start_and_die]) == {0: KILLED}
    wait_until_gone([int((tmp_path / "pid").read_text())])


def test_jobs_handle_ctrl_c_as_a_new_process_does() -> None:
    previous = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        reasons = run([lambda: os.kill(os.getpid(), signal.SIGINT)])
    finally:
        signal.signal(signal.SIGINT, previous)
    assert reasons == {0: "It was interrupted."}


SCRIPT = """
import ctypes, os, signal, subprocess, sys, threading
from magnus_peewee_store.parallel import workers
from magnus_peewee_store.parallel.workers import Slots

def wait(name, *command):
    if "deaf" in sys.argv:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(["sleep", "1000"])
    with open(name + ".tmp", "w") as file:
        file.write(f"{os.getpid()} {process.pid} ")
    if "busy" in sys.argv:  # A call through PyDLL holds the GIL.
        ctypes.PyDLL(None).system(f"echo $$ >> {name}.tmp; mv {name}.tmp {name}; sleep 1000".encode())
    os.rename(name + ".tmp", name)
    threading.Event().wait()

def nest(name):
    workers.run([lambda: wait(name + "1"), lambda: wait(name + "2")], slots, lambda *_: None)

workers.GRACE = 1.0
slots = Slots(8)
workers.run([lambda: wait("a"), lambda: wait("b"), lambda: nest("c")], slots, lambda *_: None)
"""


def start_waiting(folder: Path, *options: str) -> "Tuple[subprocess.Popen[bytes], List[int]]":
    """Start processes that wait, some of them nested. Return the first, and the ids of the others."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *options], cwd=folder, stderr=subprocess.DEVNULL)
    files = [folder / name for name in ("a", "b", "c1", "c2")]
    wait_for(*files)
    return process, [int(pid) for file in files for pid in file.read_text().split()]


def wait_until_gone(pids: List[int]) -> None:
    pause = threading.Event()
    for pid in pids:
        for _ in range(6000):
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                break
            if state == "Z":  # It waits for init to reap it.
                break
            pause.wait(0.01)
        else:
            raise AssertionError(f"Process {pid} still runs.")


@pytest.mark.parametrize("options", [[], ["deaf"]])
def test_ctrl_c_ends_all_processes(tmp_path: Path, options: List[str]) -> None:
    process, pids = start_waiting(tmp_path, *options)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    wait_until_gone(pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("state", ["waiting", "busy", "stopped"])
def test_processes_end_with_their_parent(tmp_path: Path, number: int, state: str) -> None:
    process, pids = start_waiting(tmp_path, state)
    if state == "stopped":
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    process.send_signal(number)
    assert process.wait(60) == -number
    wait_until_gone(pids)

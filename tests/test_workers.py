"""Test the forked processes of the executor local-parallel, without magnus."""

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

import pytest

from magnus_peewee_store import workers


def run(jobs: List[Callable[[], Any]], count: int = 4) -> Dict[int, str]:
    """Run the jobs and return the reason of each that failed, by its index."""
    reasons: Dict[int, str] = {}
    workers.run(jobs, workers.Slots(count), lambda index, failure: reasons.update({index: failure.reason}))
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
        1: "The process was killed by SIGKILL. Linux does that when memory runs out.",
        2: "It called sys.exit(3).",
        3: "The process exited with code 0 before the end.",
    }
    assert capfd.readouterr().err.count("ValueError: failed on purpose") == 1


def test_process_takes_the_next_job_unless_one_failed(tmp_path: Path) -> None:
    def note() -> None:
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")

    assert list(run([note, note, raise_error, note, kill_self, note, note], count=1)) == [2, 4]
    first, second, third, fourth, fifth = (tmp_path / "pids").read_text().split()
    assert first == second != third != fourth == fifth


def most_at_once(log: Path) -> int:
    """Return how many leaves worked at once, by the lines that they wrote at their start and end."""
    changes = [1 if line == "start" else -1 for line in log.read_text().split()]
    return max(sum(changes[: length + 1]) for length in range(len(changes)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_nested_jobs_share_the_slots(tmp_path: Path, count: int) -> None:
    slots = workers.Slots(count)
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
    slots = workers.Slots(2)

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
    """Return the process ids of the children of this process, those that ended but were not waited for included."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_no_process_and_no_file_stays_open() -> None:
    children_before = children()
    before = os.listdir("/proc/self/fd")
    run([raise_error, kill_self, *[lambda: None] * 10])
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert children() <= children_before


SCRIPT = """
import os, signal, subprocess, sys, threading
from magnus_peewee_store import workers

def wait(name, *command):
    if "deaf" in sys.argv:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(["sleep", "1000"])
    open(name + ".tmp", "w").write(f"{os.getpid()} {process.pid}")
    os.rename(name + ".tmp", name)
    threading.Event().wait()

def nest(name):
    workers.run([lambda: wait(name + "1"), lambda: wait(name + "2")], slots, lambda *_: None)

workers.GRACE = 1.0
slots = workers.Slots(8)
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
def test_processes_end_with_their_parent(tmp_path: Path, number: int) -> None:
    process, pids = start_waiting(tmp_path)
    process.send_signal(number)
    assert process.wait(60) == -number
    wait_until_gone(pids)

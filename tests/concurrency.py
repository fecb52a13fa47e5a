"""Run a function, or magnus, in many processes at the same time."""

import atexit
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

# Forkserver children inherit nothing from the test. They start fast because the server has already imported what magnus
# needs for any executor, and for any database.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        *("magnus_peewee_store.integrations", "magnus.cli", "magnus.extensions.nodes", "psycopg2", "pymysql"),
        *("magnus.extensions.executor.argo.implementation", "magnus.extensions.catalog.file_system.implementation"),
    ]
)

_start_lock = threading.Lock()


def run_in_processes(count: int, work: Callable[..., Any], *arguments: Any) -> List[Any]:
    """Call `work(number, *arguments)` in `count` processes at the same time. Return the results, by number.

    Raises:
        AssertionError: If `work` raises in any process.
    """
    barrier = FORKSERVER.Barrier(count)
    outcomes: Any = FORKSERVER.Queue()
    processes = [
        FORKSERVER.Process(target=_run, args=(barrier, outcomes, work, number, arguments)) for number in range(count)
    ]
    for process in processes:
        process.start()
    results = dict(outcomes.get(timeout=240) for _ in processes)
    for process in processes:
        process.join()
    failures = [text for failed, text in results.values() if failed]
    assert not failures, f"{len(failures)} of {count} failed, the first with:\n{failures[0]}"
    return [results[number][1] for number in range(count)]


def _run(barrier: Any, outcomes: Any, work: Callable[..., Any], number: int, arguments: Any) -> None:
    try:
        barrier.wait()
        outcomes.put((number, (False, work(number, *arguments))))
    except Exception:
        outcomes.put((number, (True, traceback.format_exc())))


def run_magnus_in_forked_process(command: List[str], folder: Path, environment: Dict[str, str]) -> Tuple[int, str]:
    """Run a command of magnus in a forked process that has already imported it. Return its exit code and output.

    A new process does the same, but uses four times the CPU time. Many threads can call this.
    """
    with tempfile.NamedTemporaryFile() as printed:
        process = FORKSERVER.Process(target=_run_magnus, args=(command, folder, environment, printed.name))
        # start() and join() also poll all other child processes, which is not thread-safe.
        with _start_lock:
            process.start()
        multiprocessing.connection.wait([process.sentinel], 240)
        with _start_lock:
            process.join(1)
        return process.exitcode if process.exitcode is not None else -1, printed.read().decode()


def _run_magnus(command: List[str], folder: Path, environment: Dict[str, str], printed: str) -> None:
    from magnus.cli import cli

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    output = os.open(printed, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = command
    try:
        cli()
    finally:
        atexit._run_exitfuncs()  # A child of the forkserver does not run what its imports have registered.

"""Run a function in many processes at the same time."""

import multiprocessing
import traceback
from typing import Any, Callable, List

# Forkserver children inherit nothing from the test. They start fast because the server has done the imports.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["magnus_peewee_store"])


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

"""Many processes that start at once."""

import multiprocessing
import traceback
from typing import Any, Callable, List

# Its children share nothing with the test but what they are given, and start fast: the imports are done once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["magnus_peewee_store"])


def at_once(count: int, work: Callable[..., Any], *arguments: Any) -> List[Any]:
    """Call `work(number, *arguments)` in so many processes at once, and give what they return, by number.

    Raises:
        AssertionError: If it raises in one of them.
    """
    barrier = PROCESSES.Barrier(count)
    answers: Any = PROCESSES.Queue()
    processes = [
        PROCESSES.Process(target=_answer, args=(barrier, answers, work, number, arguments)) for number in range(count)
    ]
    for process in processes:
        process.start()
    results = dict(answers.get(timeout=240) for _ in processes)
    for process in processes:
        process.join()
    failures = [text for failed, text in results.values() if failed]
    assert not failures, f"{len(failures)} of {count} failed, the first with:\n{failures[0]}"
    return [results[number][1] for number in range(count)]


def _answer(barrier: Any, answers: Any, work: Callable[..., Any], number: int, arguments: Any) -> None:
    try:
        barrier.wait()
        answers.put((number, (False, work(number, *arguments))))
    except Exception:
        answers.put((number, (True, traceback.format_exc())))

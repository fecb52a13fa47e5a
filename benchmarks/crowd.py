"""Many processes that write one run at once."""

import itertools
import time
from typing import Any, Callable, NamedTuple

from concurrency import FORKSERVER, run_in_processes

from benchmarks import logs
from benchmarks.contenders import Contender

FORKSERVER.set_forkserver_preload(["benchmarks.contenders"])

RUN = "crowd"
PREPARED = 200  # steps of a process; one that has written them all writes them again


class Share(NamedTuple):
    """What one process, or all of them, has done."""

    steps_per_second: float
    slowest_call: float
    errors: int


def crowd(make: Callable[[str], Contender], url: str, processes: int, seconds: float) -> Share:
    """Have many processes write steps of one run for so long, six calls each.

    Args:
        make: Makes, of the URL, what each of them writes by.
        url: The URL of a fresh database.
        processes: How many.
        seconds: How long.

    Returns:
        What they have done together.
    """
    first = make(url)
    first.fill(logs.run_log(RUN, 1))
    first.close()
    shares = run_in_processes(processes, _share, make, url, seconds, FORKSERVER.Barrier(processes))
    rates, slowest, errors = zip(*shares)
    return Share(sum(rates), max(slowest), sum(errors))


def _share(number: int, make: Callable[[str], Contender], url: str, seconds: float, everyone_is_ready: Any) -> Share:
    writer = make(url)
    first, *others = (writer.calls(RUN, (number + 1) * PREPARED + step) for step in range(PREPARED))
    for call in first:
        call()
    steps, slowest, errors = 0, 0.0, 0
    everyone_is_ready.wait()
    started = time.perf_counter()
    for calls in itertools.cycle(others):
        for call in calls:
            before = time.perf_counter()
            try:
                call()
            except Exception:
                errors += 1
            slowest = max(slowest, time.perf_counter() - before)
        steps += 1
        elapsed = time.perf_counter() - started
        if elapsed > seconds:
            break
    writer.close()
    return Share(steps / elapsed, slowest, errors)

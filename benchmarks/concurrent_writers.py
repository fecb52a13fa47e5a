"""Write one run from many processes at the same time."""

import itertools
import time
from typing import Any, Callable, NamedTuple

from benchmarks import logs
from benchmarks.stores import AnyStore
from tests.concurrency import FORKSERVER, run_in_processes

FORKSERVER.set_forkserver_preload(["benchmarks.stores"])

RUN = "concurrent"
PREPARED_STEPS = 200  # Steps per process. A process that has written all of them starts again.


class Throughput(NamedTuple):
    """The result of one process, or of all processes together."""

    steps_per_second: float
    slowest_call: float
    errors: int


def write_concurrently(make: Callable[[str], AnyStore], url: str, processes: int, seconds: float) -> Throughput:
    """Write steps of one run from many processes at the same time, with six calls per step.

    Args:
        make: Creates the store of each process from the URL.
        url: The URL of a new database with the table.
        processes: The number of processes.
        seconds: How long each process writes.
    """
    first = make(url)
    first.write_run_log(logs.run_log(RUN, 1))
    first.close()
    results = run_in_processes(processes, _write_steps, make, url, seconds, FORKSERVER.Barrier(processes))
    rates, slowest, errors = zip(*results)
    return Throughput(sum(rates), max(slowest), sum(errors))


def _write_steps(
    number: int, make: Callable[[str], AnyStore], url: str, seconds: float, ready_barrier: Any
) -> Throughput:
    writer = make(url)
    first, *other_steps = (
        writer.prepare_step_calls(RUN, (number + 1) * PREPARED_STEPS + step) for step in range(PREPARED_STEPS)
    )
    for call in first:
        call()
    steps, slowest, errors = 0, 0.0, 0
    ready_barrier.wait()
    start = time.perf_counter()
    for calls in itertools.cycle(other_steps):
        for call in calls:
            before = time.perf_counter()
            try:
                call()
            except Exception:
                errors += 1
            slowest = max(slowest, time.perf_counter() - before)
        steps += 1
        elapsed = time.perf_counter() - start
        if elapsed > seconds:
            break
    writer.close()
    return Throughput(steps / elapsed, slowest, errors)

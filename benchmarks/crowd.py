"""Many processes that write one run at once."""

import time
from typing import Any, Dict, List, NamedTuple

from crowds import PROCESSES, at_once

from benchmarks import contenders, logs

RUN = "crowd"


class Work(NamedTuple):
    """What a crowd has done."""

    steps_per_second: float
    slowest_call: float
    errors: int


def crowd(contender: str, url: str, processes: int, seconds: float) -> Work:
    """Have many processes write steps of one run for so long, six calls each, and give what they have done together.

    Args:
        contender: `Store` or `RawDriver`.
        url: The URL of a fresh database.
        processes: How many.
        seconds: How long.
    """
    first = _make(contender, url)
    first.fill(logs.run_log(RUN, 1))
    first.close()
    barrier = PROCESSES.Barrier(processes)
    shares: List[Dict[str, Any]] = at_once(processes, _share, contender, url, seconds, barrier)
    return Work(
        sum(share["steps"] for share in shares) / max(share["seconds"] for share in shares),
        max(share["slowest"] for share in shares),
        sum(share["errors"] for share in shares),
    )


def _make(contender: str, url: str) -> contenders.Contender:
    return contenders.ours(url) if contender == "Store" else contenders.RawDriver(url)


def _share(number: int, contender: str, url: str, seconds: float, barrier: Any) -> Dict[str, Any]:
    writer = _make(contender, url)
    steps, slowest, errors = (number + 1) * 1_000_000, 0.0, 0
    first = steps
    for call in writer.calls(RUN, steps):
        call()
    barrier.wait()
    started = ended = time.perf_counter()
    while ended - started < seconds:
        steps += 1
        for call in writer.calls(RUN, steps):
            before = time.perf_counter()
            try:
                call()
            except Exception:
                errors += 1
            slowest = max(slowest, time.perf_counter() - before)
        ended = time.perf_counter()
    writer.close()
    return {"steps": steps - first, "seconds": ended - started, "slowest": slowest, "errors": errors}

"""How it is measured: in turns, round by round."""

import gc
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Union

from benchmarks.contenders import OURS, Call
from benchmarks.databases import Database
from benchmarks.results import Comparison, Count, Point, Samples


class Effort(NamedTuple):
    """How much is done."""

    rounds: int
    batches: int
    batch: int
    sizes: List[int]
    """How many steps a run has already."""
    judged_sizes: List[int]
    long_run: int
    other_rows: int
    full_run: int
    processes: int
    seconds: float
    pipeline: int


FULL = Effort(5, 8, 5, [10, 30, 100, 300, 1000, 3000], [100, 1000], 10_000, 1_000_000, 10_000, 16, 2.0, 100)
QUICK = Effort(2, 2, 2, [10, 100], [100], 100, 1000, 200, 4, 0.5, 5)

Result = Union[Comparison, Count, Point]
Measure = Callable[[Database, Effort, Path], Iterator[Result]]


def alternate(works: Dict[str, Callable[[], Call]], batches: int, size: int) -> Dict[str, float]:
    """Do works in turns of a few calls, so that whatever else the machine does meets all of them.

    Args:
        works: By name, what prepares a call.
        batches: How many turns each has.
        size: How many calls a turn has.

    Returns:
        By name, the seconds of a call, as the median of the turns.
    """
    names = list(works)
    seconds: Dict[str, Samples] = {name: [] for name in names}
    gc.collect()
    gc.freeze()  # Nobody pays for the garbage of those before.
    for turn in range(batches):
        for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
            calls = [works[name]() for _ in range(size)]
            started = time.perf_counter()
            for call in calls:
                call()
            seconds[name].append((time.perf_counter() - started) / size)
    gc.unfreeze()
    return {name: statistics.median(samples) for name, samples in seconds.items()}


class Rounds:
    """The samples of several rounds."""

    def __init__(self) -> None:
        self.samples: Dict[str, Samples] = {}

    def add(self, seconds: Dict[str, float]) -> None:
        """Add a round's."""
        for name, value in seconds.items():
            self.samples.setdefault(name, []).append(value)

    def compare(self, work: str, database: Database, against: str, goal: Any = None, **more: Any) -> Comparison:
        """Compare the store with another."""
        own = more.pop("contender", OURS)
        unit = more.pop("unit", "s")
        return Comparison(work, database.title, unit, own, self.samples[own], against, self.samples[against], goal)

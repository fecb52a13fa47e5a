"""How it is measured: in turns, round by round."""

import gc
import os
import random
import statistics
import time
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple

from benchmarks.contenders import OURS, Call
from benchmarks.databases import Database
from benchmarks.results import Comparison, Samples

_random = random.Random(0)


class Effort(NamedTuple):
    """How much is done."""

    rounds: int
    turns: int
    """Of each contender, in a round."""
    calls: int
    """In a turn."""
    sizes: List[int]
    """How many steps a run has already."""
    judged_sizes: List[int]
    long_run: int
    other_rows: int
    full_run: int
    processes: int
    seconds: float
    """How long the processes write."""
    first_calls: int
    pipeline: int
    runs: int
    """To be listed, of 50 steps each."""


FULL = Effort(
    rounds=5,
    turns=4,
    calls=10,
    sizes=[10, 100, 1000, 3000],
    judged_sizes=[100, 1000],
    long_run=10_000,
    other_rows=1_000_000,
    full_run=10_000,
    processes=16,
    seconds=2.0,
    first_calls=10,
    pipeline=100,
    runs=100_000,
)
QUICK = Effort(
    rounds=1,
    turns=2,
    calls=2,
    sizes=[10, 100],
    judged_sizes=[100],
    long_run=100,
    other_rows=1000,
    full_run=200,
    processes=4,
    seconds=0.5,
    first_calls=1,
    pipeline=5,
    runs=100,
)


def shuffled(names: Iterable[str]) -> List[str]:
    """Give names in another order each time: nobody always comes after the same other.

    Args:
        names: The names.
    """
    names = list(names)
    return _random.sample(names, len(names))


def alternate(works: Mapping[str, Callable[[], Call]], turns: int, size: int) -> Dict[str, float]:
    """Do works in turns of a few calls, so that whatever else the machine does meets all of them.

    Args:
        works: By name, what prepares a call. That takes no time of the measured.
        turns: How many turns each has.
        size: How many calls a turn has.

    Returns:
        By name, the seconds of a call, as the median of all of its calls: one that the disk held up is no other's.
    """
    seconds: Dict[str, Samples] = {name: [] for name in works}
    gc.collect()
    gc.freeze()  # Nobody pays for the garbage of those before,
    for _ in range(turns):
        for name in shuffled(works):
            calls = [works[name]() for _ in range(size)]
            os.sync()  # nor for what they left to be written.
            for call in calls:
                started = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - started)
    gc.unfreeze()
    return {name: statistics.median(samples) for name, samples in seconds.items()}


class Rounds:
    """The samples of a work on a database, by contender and round.

    Args:
        work: What is done.
        database: The database.
        unit: What is counted.
    """

    def __init__(self, work: str, database: Database, unit: str = "s") -> None:
        self.work = work
        self.database = database
        self.unit = unit
        self.samples: Dict[str, Samples] = {}

    def add(self, round_of: Dict[str, float]) -> None:
        """Add a round: a sample of each contender."""
        for name, sample in round_of.items():
            self.samples.setdefault(name, []).append(sample)

    def compare(self, against: str, contender: str = OURS, **judgement: Any) -> Comparison:
        """Compare the store, or another contender, with another."""
        own, others = self.samples[contender], self.samples[against]
        return Comparison(self.work, self.database.title, self.unit, contender, own, against, others, **judgement)

"""Time calls, and compare stores. In a round, all stores take turns."""

import gc
import os
import random
import statistics
import time
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional

from benchmarks.databases import Database
from benchmarks.stores import THIS_STORE, Call

_random = random.Random(0)


class Settings(NamedTuple):
    """The number of rounds, and whether to use small sizes that only show that a benchmark works."""

    rounds: int
    is_quick: bool

    def size(self, full: int) -> int:
        """Return the size of something: the full one, or a hundredth."""
        return max(full // 100, 4) if self.is_quick else full

    @property
    def seconds(self) -> float:
        """How long concurrent processes write."""
        return 0.2 if self.is_quick else 2.0


class Spread(NamedTuple):
    """The median and the range of samples."""

    median: float
    low: float
    high: float


class Comparison(NamedTuple):
    """What two stores took for a workload, and the goal of the comparison."""

    workload: str
    database: Database
    rounds: List[Dict[str, float]]
    """The samples of each round, by store."""
    against: str
    store: str = THIS_STORE
    unit: str = "s"
    has_ratio: bool = True
    """Whether the goal is one for the ratio of the two samples of a round, instead of the samples of `store`."""
    at_most: Optional[float] = None
    at_least: Optional[float] = None

    def spread(self, store: str) -> Spread:
        """Return the samples of a store."""
        return _spread(each[store] for each in self.rounds)

    def ratio(self) -> Spread:
        """Return the ratios of the samples of the same round, with the same machine load."""
        return _spread(each[self.store] / each[self.against] for each in self.rounds)

    def is_missed(self) -> bool:
        """Return whether the median misses the goal."""
        median = (self.ratio() if self.has_ratio else self.spread(self.store)).median
        return (self.at_most is not None and median > self.at_most) or (
            self.at_least is not None and median < self.at_least
        )


def _spread(samples: Iterable[float]) -> Spread:
    samples = sorted(samples)
    return Spread(statistics.median(samples), samples[0], samples[-1])


def shuffled(names: Iterable[str]) -> List[str]:
    """Return the names in random order, so that no store always runs after the same other store."""
    names = list(names)
    return _random.sample(names, len(names))


def time_in_turns(
    preparers: Mapping[str, Callable[[], Call]],
    turns: int = 4,
    size: int = 10,
    clock: Callable[[], float] = time.perf_counter,
) -> Dict[str, float]:
    """Time calls in turns of a few calls, so that other load on the machine affects all of them equally.

    Args:
        preparers: By name, a function that prepares a call. The preparation is not timed.
        turns: The number of turns of each.
        size: The number of calls in a turn.
        clock: What returns the seconds.

    Returns:
        By name, the median seconds of a call. The median ignores calls that the disk delayed.
    """
    seconds: Dict[str, List[float]] = {name: [] for name in preparers}
    gc.collect()
    gc.freeze()  # Exclude existing objects from garbage collection during the calls.
    for _ in range(turns):
        for name in shuffled(preparers):
            calls = [preparers[name]() for _ in range(size)]
            os.sync()  # Flush the writes of earlier turns first.
            for call in calls:
                start = clock()
                call()
                seconds[name].append(clock() - start)
    gc.unfreeze()
    return {name: statistics.median(samples) for name, samples in seconds.items()}

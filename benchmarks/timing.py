"""Time calls in rounds. In a round, all stores take turns."""

import gc
import os
import random
import statistics
import time
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple

from benchmarks.databases import Database
from benchmarks.results import Comparison, Samples
from benchmarks.stores import THIS_STORE, Call

_random = random.Random(0)


class Settings(NamedTuple):
    """The sizes of the benchmarks."""

    rounds: int
    turns: int
    """Turns of each store in a round."""
    calls: int
    """Calls in a turn."""
    sizes: List[int]
    """Numbers of steps that a run already has."""
    compared_sizes: List[int]
    long_run: int
    other_rows: int
    full_run: int
    processes: int
    seconds: float
    """How long concurrent processes write."""
    first_calls: int
    pipeline: int
    branches: int
    array: int
    """Bytes of the array that parallel workers share."""
    runs: int
    """Runs in the database, with 50 steps each."""
    idle_processes: int
    """Processes that have heartbeats and write nothing else."""
    searched_runs: int
    listed_runs: int
    framed_runs: int


FULL = Settings(
    rounds=5,
    turns=4,
    calls=10,
    sizes=[10, 100, 1000, 3000],
    compared_sizes=[100, 1000],
    long_run=10_000,
    other_rows=1_000_000,
    full_run=10_000,
    processes=16,
    seconds=2.0,
    first_calls=10,
    pipeline=100,
    branches=200,
    array=1 << 30,
    runs=100_000,
    idle_processes=50,
    searched_runs=10_000,
    listed_runs=2000,
    framed_runs=500,
)
QUICK = Settings(
    rounds=1,
    turns=2,
    calls=2,
    sizes=[10, 100],
    compared_sizes=[100],
    long_run=100,
    other_rows=1000,
    full_run=200,
    processes=4,
    seconds=0.5,
    first_calls=1,
    pipeline=5,
    branches=10,
    array=1 << 24,
    runs=100,
    idle_processes=4,
    searched_runs=20,
    listed_runs=20,
    framed_runs=5,
)


def shuffled(names: Iterable[str]) -> List[str]:
    """Return the names in random order, so that no store always runs after the same other store."""
    names = list(names)
    return _random.sample(names, len(names))


def time_in_turns(preparers: Mapping[str, Callable[[], Call]], turns: int, size: int) -> Dict[str, float]:
    """Time calls in turns of a few calls, so that other load on the machine affects all of them equally.

    Args:
        preparers: By name, a function that prepares a call. The preparation is not timed.
        turns: The number of turns of each.
        size: The number of calls in a turn.

    Returns:
        By name, the median seconds of a call. The median ignores calls that the disk delayed.
    """
    seconds: Dict[str, Samples] = {name: [] for name in preparers}
    gc.collect()
    gc.freeze()  # Exclude existing objects from garbage collection during the calls.
    for _ in range(turns):
        for name in shuffled(preparers):
            calls = [preparers[name]() for _ in range(size)]
            os.sync()  # Flush the writes of earlier turns first.
            for call in calls:
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    gc.unfreeze()
    return {name: statistics.median(samples) for name, samples in seconds.items()}


class Rounds:
    """The samples of one workload on a database, by store and round."""

    def __init__(self, workload: str, database: Database, unit: str = "s") -> None:
        self.workload = workload
        self.database = database
        self.unit = unit
        self.samples: Dict[str, Samples] = {}

    def add(self, samples: Dict[str, float]) -> None:
        """Add a round: one sample of each store."""
        for name, sample in samples.items():
            self.samples.setdefault(name, []).append(sample)

    def compare(self, against: str, store: str = THIS_STORE, **goal: Any) -> Comparison:
        """Compare `store` with `against`. The goal is given as the last fields of `Comparison`."""
        samples, other_samples = self.samples[store], self.samples[against]
        return Comparison(self.workload, self.database.title, self.unit, store, samples, against, other_samples, **goal)

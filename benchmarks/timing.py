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
    """The sizes of the benchmarks, by default the full ones."""

    rounds: int = 5
    turns: int = 4
    """Turns of each store in a round."""
    calls: int = 10
    """Calls in a turn."""
    sizes: List[int] = [10, 100, 1000, 3000]
    """Numbers of steps that a run already has."""
    compared_sizes: List[int] = [100, 1000]
    long_run: int = 10_000
    other_rows: int = 1_000_000
    full_run: int = 10_000
    processes: int = 16
    seconds: float = 2.0
    """How long concurrent processes write."""
    first_calls: int = 10
    pipeline: int = 100
    branches: int = 200
    array: int = 1 << 30
    """Bytes of the array that parallel workers share."""
    runs: int = 100_000
    """Runs in the database, with 50 steps each."""
    idle_processes: int = 50
    """Processes that have heartbeats and write nothing else."""
    searched_runs: int = 10_000
    listed_runs: int = 2000
    framed_runs: int = 500
    reported_runs: int = 1000
    large_map: int = 5000
    large_metrics: int = 100_000


FULL = Settings()
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
    reported_runs=5,
    large_map=20,
    large_metrics=100,
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

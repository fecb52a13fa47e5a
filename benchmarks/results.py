"""The results of the benchmarks, and their goals."""

import statistics
from typing import Any, Dict, List, NamedTuple, Optional, Union

Samples = List[float]  # one per round


class Spread(NamedTuple):
    """The median and the range of samples."""

    median: float
    low: float
    high: float


def spread(samples: Samples) -> Spread:
    """Return the median and the range of samples."""
    return Spread(statistics.median(samples), min(samples), max(samples))


class Comparison(NamedTuple):
    """The samples of two stores, one per round, and the goal of the comparison."""

    workload: str
    database: str
    unit: str
    store: str
    samples: Samples
    against: str
    other_samples: Samples
    criterion: str = "ratio"
    """`ratio`: samples / other_samples. `speed-up`: other_samples / samples. `value`: samples only."""
    at_most: Optional[float] = None
    at_least: Optional[float] = None

    def goal_value(self) -> Spread:
        """Return the values for the goal. Ratios compare samples of the same round, with the same machine load."""
        if self.criterion == "value":
            return spread(self.samples)
        pairs = zip(self.samples, self.other_samples)
        return spread([other / own if self.criterion == "speed-up" else own / other for own, other in pairs])

    def missed_by(self) -> Optional[float]:
        """Return by which fraction the goal is missed: 0 if it is met, None if there is no goal."""
        median = self.goal_value().median
        if self.at_most is not None:
            return max(median - self.at_most, 0.0) / (self.at_most or 1)
        if self.at_least is not None:
            return max(self.at_least - median, 0.0) / self.at_least
        return None

    def as_json(self) -> Dict[str, Any]:
        """Return all fields and the evaluation of the goal."""
        return {**self._asdict(), "goal_value": self.goal_value()._asdict(), "missed_by": self.missed_by()}


class Point(NamedTuple):
    """The cost of a step in a run of some size, for the plot."""

    database: str
    store: str
    steps: int
    samples: Samples


Result = Union[Comparison, Point]

"""What is measured, and how it is judged."""

import statistics
from typing import Any, Dict, List, NamedTuple, Optional, Union

Samples = List[float]  # one a round


class Spread(NamedTuple):
    """The median of samples, and their range."""

    median: float
    low: float
    high: float


def spread(samples: Samples) -> Spread:
    """Sum samples up."""
    return Spread(statistics.median(samples), min(samples), max(samples))


class Comparison(NamedTuple):
    """A contender's samples beside another's, round by round, and what they are to show."""

    work: str
    database: str
    unit: str
    contender: str
    samples: Samples
    against: str
    others: Samples
    judged_by: str = "ratio"
    """`ratio`: its own to the other's; `speed-up`: the other's to its own; `value`: its own alone."""
    at_most: Optional[float] = None
    at_least: Optional[float] = None

    def judged(self) -> Spread:
        """What is judged: of ratios those within a round, as by the next the machine may do something else."""
        if self.judged_by == "value":
            return spread(self.samples)
        pairs = zip(self.samples, self.others)
        return spread([other / own if self.judged_by == "speed-up" else own / other for own, other in pairs])

    def missed_by(self) -> Optional[float]:
        """By which part of itself the goal is missed: 0 if it is met, None if there is none."""
        median = self.judged().median
        if self.at_most is not None:
            return max(median - self.at_most, 0.0) / (self.at_most or 1)
        if self.at_least is not None:
            return max(self.at_least - median, 0.0) / self.at_least
        return None

    def as_json(self) -> Dict[str, Any]:
        """All of it, and the judgement."""
        return {**self._asdict(), "judged": self.judged()._asdict(), "missed_by": self.missed_by()}


class Point(NamedTuple):
    """What a step costs a contender with so many steps in the run already: for the plot."""

    database: str
    contender: str
    steps: int
    samples: Samples


class Count(NamedTuple):
    """How often a call of the store goes to the database."""

    database: str
    call: str
    unit: str
    times: int


Result = Union[Comparison, Point, Count]

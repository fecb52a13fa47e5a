"""What is measured, and how it is judged."""

import statistics
from typing import Any, Dict, List, NamedTuple, Optional

Samples = List[float]  # one a round


class Spread(NamedTuple):
    """The median of samples, and their range."""

    median: float
    low: float
    high: float


def spread(samples: Samples) -> Spread:
    """Sum samples up."""
    return Spread(statistics.median(samples), min(samples), max(samples))


class Goal(NamedTuple):
    """What a comparison is to show."""

    of: str
    """`ratio`: this to the other; `speed-up`: the other to this; `value`: this alone."""
    at_least: bool
    limit: float

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


def ratio_at_most(limit: float) -> Goal:
    """It takes at most so many times what the other takes."""
    return Goal("ratio", False, limit)


def ratio_at_least(limit: float) -> Goal:
    """It does at least so many times what the other does."""
    return Goal("ratio", True, limit)


def times_faster(limit: float) -> Goal:
    """The other takes at least so many times what it takes."""
    return Goal("speed-up", True, limit)


def value_at_most(limit: float) -> Goal:
    """It is at most so much, whatever the other's."""
    return Goal("value", False, limit)


class Comparison(NamedTuple):
    """One contender's samples beside another's, round by round."""

    work: str
    database: str
    unit: str
    contender: str
    samples: Samples
    against: str
    others: Samples
    goal: Optional[Goal] = None

    def judged(self) -> Spread:
        """What the goal is about: of ratios those within a round, as all else that a machine does changes by then."""
        of = self.goal.of if self.goal else "ratio"
        if of == "value":
            return spread(self.samples)
        pairs = zip(self.samples, self.others)
        return spread([other / own if of == "speed-up" else own / other for own, other in pairs])

    def missed_by(self) -> float:
        """The part of the limit that the goal is missed by: 0 if it is met."""
        if self.goal is None:
            return 0.0
        median, limit = self.judged().median, self.goal.limit
        missed = limit - median if self.goal.at_least else median - limit
        return max(missed / (limit or 1), 0.0)

    def as_json(self) -> Dict[str, Any]:
        """All of it, the judgement too."""
        return {
            **self._asdict(),
            "goal": self.goal and {**self.goal._asdict(), "met": not self.missed_by()},
            "judged": self.judged()._asdict(),
        }


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
    count: int


class Results:
    """All that one run of the benchmark gives."""

    def __init__(self) -> None:
        self.comparisons: List[Comparison] = []
        self.points: List[Point] = []
        self.counts: List[Count] = []

    def add(self, result: Any) -> None:
        """Add one."""
        {Comparison: self.comparisons, Point: self.points, Count: self.counts}[type(result)].append(result)

"""Parameters and metrics as flat dictionaries, and series: metrics with a value for each iteration."""

import json
import math
import operator
import re
import sys
from collections import Counter
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

_ITERATION = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_PLAIN_TYPES = frozenset((bool, float, int, str, type(None)))
SERIES_VALUES = ("last", "first", "min", "max")  # endings of names that choose one value of a series
MOST_POINTS = 300  # of a curve; more cannot be told apart

Path = Tuple[str, ...]  # the names of the dictionaries that lead to a value, and its own name
Leaf = Tuple[Path, Any]
CurvePoint = Tuple[int, Optional[float]]


class Point(NamedTuple):
    """A value of a metric."""

    iteration: Optional[int]
    """None if the metric has no iterations."""
    value: Any


class Series(NamedTuple):
    """A metric with a value for each iteration, as `track_this(step=7, loss=0.5)` writes it.

    magnus stores it as a dictionary, such as `{"loss": {"7": 0.5, "8": 0.4}}`. A dictionary in the metrics with two or
    more keys, all of them whole numbers, is a series. magnus does not write one with a single key.
    """

    points: Tuple[Point, ...]
    """In the order of iterations; at least one."""

    @property
    def first(self) -> Point:
        """The point of the lowest iteration."""
        return self.points[0]

    @property
    def last(self) -> Point:
        """The point of the highest iteration."""
        return self.points[-1]

    @property
    def min(self) -> Optional[Point]:
        """The first point with the smallest number; None without numbers. NaN and text do not count."""
        return min(self._numbers(), key=operator.attrgetter("value"), default=None)

    @property
    def max(self) -> Optional[Point]:
        """The first point with the largest number; None without numbers."""
        return max(self._numbers(), key=operator.attrgetter("value"), default=None)

    def choose(self, which: str) -> Optional[Point]:
        """Return the point that `last`, `first`, `min` or `max` names, or that of an iteration, given as text."""
        if which in SERIES_VALUES:
            return getattr(self, which)  # type: ignore[no-any-return]
        return next((point for point in self.points if str(point.iteration) == which), None)

    def __repr__(self) -> str:
        """Return one line, such as `0.0412 (iteration 100; min 0.0398 at 87)`."""
        smallest = self.min
        minimum = f"; min {_short(smallest.value)} at {smallest.iteration}" if smallest else ""
        return f"{_short(self.last.value)} (iteration {self.last.iteration}{minimum})"

    def _numbers(self) -> Iterator[Point]:
        return (point for point in self.points if is_number(point.value) and point.value == point.value)


def is_number(value: Any) -> bool:
    """Return True for an integer or a float, but not for True and False."""
    return isinstance(value, (float, int)) and type(value) is not bool


def is_finite(value: Any) -> bool:
    """Return True for a number that is neither NaN nor infinite, and that a float can hold."""
    if type(value) is float:  # Most values are. The rest takes longer.
        return math.isfinite(value)
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:
        return False


def is_iteration(text: str) -> bool:
    """Return True for a whole number as `track_this(step=...)` writes it."""
    return bool(_ITERATION.fullmatch(text))


def choose(value: Any, which: str) -> Optional[Point]:
    """Return the point that `which` names; see `Series.choose`.

    A value that is no series answers `last`, `first`, `min` and `max` as itself.
    """
    if isinstance(value, Series):
        return value.choose(which)
    return Point(None, value) if which in SERIES_VALUES else None


def last_value(value: Any) -> Any:
    """Return the last value of a series. Other values stay as they are."""
    return value.last.value if isinstance(value, Series) else value


def curve_of(points: Iterable[Tuple[Optional[int], Any]]) -> List[CurvePoint]:
    """Return what a curve shows of a series: finite numbers, and None where it breaks. Nothing without two numbers.

    Of many points, it has at most about `MOST_POINTS`: of each bucket the smallest and the largest.
    """
    finite = [(iteration or 0, value if is_finite(value) else None) for iteration, value in points]
    if len([value for _, value in finite if value is not None]) < 2:
        return []
    if len(finite) <= MOST_POINTS:
        return finite
    size = math.ceil(len(finite) / MOST_POINTS * 2)
    kept: List[CurvePoint] = []
    for first in range(0, len(finite), size):
        bucket = [(iteration, value) for iteration, value in finite[first : first + size] if value is not None]
        ends = {min(bucket, key=operator.itemgetter(1)), max(bucket, key=operator.itemgetter(1))} if bucket else set()
        kept += sorted(ends) if ends else [(finite[first][0], None)]
    return [finite[0], *kept, finite[-1]]


def flatten(
    values: Mapping[str, Any], prefix: str = "", find_leaves: Optional[Callable[..., Iterator[Leaf]]] = None
) -> Dict[str, Any]:
    """Return a flat dictionary. Names within inner dictionaries become dot paths. Empty inner dictionaries stay.

    If two values have the same dot path, brackets tell them apart: `{"a": {"b": 1}, "a.b": 2}` becomes
    `{"a[b]": 1, "a.b": 2}`.
    """
    if _PLAIN_TYPES.issuperset(map(type, values.values())):  # Most are plain. The rest takes longer.
        # Many runs have the same names. Interned, each name takes memory once.
        return {sys.intern(f"{prefix}{name}"): value for name, value in values.items()}
    leaves = list((find_leaves or _leaves)(values))
    counts = Counter(".".join(path) for path, _ in leaves)
    return {sys.intern(f"{prefix}{_join_path(path, counts)}"): value for path, value in leaves}


def flatten_metrics(metrics: Mapping[str, Any], prefix: str = "") -> Dict[str, Any]:
    """Return metrics like `flatten`. A series is one `Series`, and its iterations are not part of the name."""
    return flatten(metrics, prefix, _metric_leaves)


def _leaves(values: Mapping[str, Any], path: Path = ()) -> Iterator[Leaf]:
    for name, value in values.items():
        if value and isinstance(value, dict):
            yield from _leaves(value, (*path, str(name)))
        else:
            yield (*path, str(name)), value


def _metric_leaves(values: Mapping[str, Any], path: Path = ()) -> Iterator[Leaf]:
    for name, value in values.items():
        own_path = (*path, str(name))
        if not value or not isinstance(value, dict):
            yield own_path, value
        elif len(value) > 1 and all(map(_ITERATION.fullmatch, map(str, value))):
            yield from _series_leaves(value, own_path)
        else:
            yield from _metric_leaves(value, own_path)


def _series_leaves(values: Mapping[str, Any], path: Path) -> Iterator[Leaf]:
    """Yield the series in a dictionary by iteration. Its values may be dictionaries, with one series for each name."""
    if not any(isinstance(value, dict) for value in values.values()):  # Most have none. The rest takes longer.
        yield path, _series(map(Point._make, zip(map(int, values), values.values())))
        return
    points: Dict[Path, List[Point]] = {}
    for iteration, value in values.items():
        leaves = _leaves(value, path) if value and isinstance(value, dict) else [(path, value)]
        for own_path, leaf in leaves:
            points.setdefault(own_path, []).append(Point(int(iteration), leaf))
    for own_path, found in points.items():
        yield own_path, _series(found)


def _series(points: Iterable[Point]) -> Series:
    return Series(tuple(sorted(points, key=operator.itemgetter(0))))


def _join_path(path: Path, counts: Mapping[str, int]) -> str:
    dotted = ".".join(path)
    return dotted if counts[dotted] == 1 else path[0] + "".join(f"[{name}]" for name in path[1:])


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) and math.isfinite(value) else json.dumps(value)

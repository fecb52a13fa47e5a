"""Conditions on runs: parse them, decide which runs meet them, and sort runs by a name.

A condition compares a name with a value, such as `rmse<0.5`. Whatever chooses runs can use them.
"""

import json
import operator
import re
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

from magnus_peewee_store.exceptions import ConditionError
from magnus_peewee_store.runs.listing import RunProgress, RunSummary
from magnus_peewee_store.runs.statuses import UNKNOWN, parse_status
from magnus_peewee_store.times import parse_age, parse_time

AnyRun = TypeVar("AnyRun", bound=RunProgress)

PARAMS, METRICS = "params.", "metrics."  # prefixes that say whether a name is a parameter or a metric
OPERATORS: Dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "~": operator.contains,
}
# The fields that the run's own row and its annotations hold.
HEADER_FIELDS = ("run_id", "status", "tag", "pipeline", "started")
VALUE_FIELDS = ("project",)  # those that only a `RunSummary` has
FIELDS: Dict[str, Callable[[Any], Any]] = {
    "run_id": lambda run: run.run_id,
    "status": lambda run: run.status,
    "tag": lambda run: run.tag or "",
    "pipeline": lambda run: run.pipeline or "",
    "started": lambda run: run.started,
    "duration": lambda run: run.duration,
    "failed_step": lambda run: run.failed_step or "",
    "project": lambda run: run.project or "",
    "user": lambda run: run.user or "",
    "host": lambda run: run.host or "",
}

_CONDITION = re.compile(
    r"""\s*(?: "(?P<double>[^"]*)" | '(?P<single>[^']*)' | (?P<bare>.*?) )\s*
    (?P<operator>==|!=|<=|>=|=|<|>|~)(?P<value>.*)""",
    re.DOTALL | re.VERBOSE,
)


class Condition(NamedTuple):
    """A comparison that a run meets if any of the name's values meets it."""

    name: str
    """A field, a parameter or a metric.

    The last part of a metric's name is enough. The number that `track_this(step=1, loss=...)` adds can be left out.
    """
    operator: str
    """One of `=`, `!=`, `<`, `<=`, `>`, `>=`, and `~`, which means "contains" and ignores case."""
    value: str
    """The value as a text. A number is compared with numbers, too."""


AnyCondition = Union[str, Condition]


def parse_condition(text: str) -> Condition:
    """Parse a condition such as `rmse<0.5`.

    The first operator ends the name. A name that contains an operator must be in quotes. Quotes around the name or the
    value are removed.

    Raises:
        ConditionError: If the text is not a condition.
    """
    parts = _CONDITION.fullmatch(text)
    name = next((parts[key] for key in ("double", "single", "bare") if parts[key] is not None), "") if parts else ""
    if not parts or not name:
        raise ConditionError(
            f"'{text}' is not a condition. Write a name, one of {' '.join(OPERATORS)} and a value, such as rmse<0.5."
        )
    value = parts["value"].strip()
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return Condition(name, "=" if parts["operator"] == "==" else parts["operator"], value[1:-1] if is_quoted else value)


class Name:
    """A name in a condition, or to sort by: a field, parameters or metrics.

    Args:
        text: The name. The prefix `params.` or `metrics.` says which of the two it is.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.is_field = text in FIELDS
        self.needs_summary = not self.is_field or text in VALUE_FIELDS
        self._field = FIELDS.get(text)
        self._param: Optional[str] = text
        self._metric: Optional[str] = text
        if text.startswith(PARAMS):
            self._param, self._metric = text[len(PARAMS) :], None
        elif text.startswith(METRICS):
            self._param, self._metric = None, text[len(METRICS) :]
        self._is_metric: Dict[str, bool] = {}  # a cache by the full name of a metric, because many runs have the same

    def values(self, run: RunProgress) -> List[Any]:
        """Return the values that a run has for the name. If `needs_summary`, the run must be a `RunSummary`."""
        if self.text == "tag":
            return [run.tag, *run.tags] if run.tag else list(run.tags) or [""]
        if self._field:
            return [self._field(run)]
        assert isinstance(run, RunSummary)  # noqa: S101 - see above
        values = [run.params[self._param]] if self._param in run.params else []
        if self._metric is not None:
            values += [value for name, value in run.metrics.items() if self._means(name)]
        return values

    def _means(self, metric: str) -> bool:
        if metric not in self._is_metric:
            names = (f".{metric}", f".{without_number(metric)}")
            self._is_metric[metric] = any(name.endswith(f".{self._metric}") for name in names)
        return self._is_metric[metric]


def without_number(metric: str) -> str:
    """Return the name of a metric without the number at its end that `track_this(step=1, loss=...)` adds."""
    name, _, number = metric.rpartition(".")
    return name if re.fullmatch(r"-?\d+", number) else metric


class Filter:
    """A condition that is ready to be evaluated on many runs.

    Args:
        condition: The condition.

    Raises:
        ConditionError: If it is not a condition, or its value does not suit the field.
    """

    def __init__(self, condition: AnyCondition) -> None:
        self.condition = parse_condition(condition) if isinstance(condition, str) else condition
        if self.condition.operator not in OPERATORS:
            raise ConditionError(f"'{self.condition.operator}' is not one of {' '.join(OPERATORS)}.")
        self.name = Name(self.condition.name)
        self._operand = _Operand(self.condition)

    def is_met_by(self, run: RunProgress) -> bool:
        """Return True if any value that the run has for the name meets the condition. For `tag!=`, all must meet it."""
        quantifier = all if (self.condition.name, self.condition.operator) == ("tag", "!=") else any
        return quantifier(map(self._operand.compare, self.name.values(run)))

    def is_on_header(self) -> bool:
        """Return True if the run's own row and its annotations are enough to evaluate it."""
        return self.condition.name in HEADER_FIELDS

    def earliest_start(self) -> Optional[datetime]:
        """Return the earliest time at which a run may start to meet the condition; None if there is no limit."""
        name, symbol, value = self.condition
        return _parse_started(value) if name == "started" and symbol in ("=", ">", ">=") else None

    def header_texts(self) -> List[str]:
        """Return texts that a run's own row must contain to meet the condition, ignoring case."""
        name, symbol, value = self.condition
        if name == "status" and symbol == "=" and parse_status(value) != UNKNOWN:
            return [json.dumps(parse_status(value))]
        return []

    def tags(self) -> List[str]:
        """Return tags that a run must have to meet the condition, in its own row or added later."""
        name, symbol, value = self.condition
        # Other software may escape characters outside ASCII differently.
        return [value] if name == "tag" and symbol == "=" and value and value.isascii() else []


def make_filters(where: Union[AnyCondition, Sequence[AnyCondition]]) -> List[Filter]:
    """Return a filter for each condition. `where` may be a single condition.

    Raises:
        ConditionError: If a condition is not valid.
    """
    conditions = [where] if isinstance(where, (str, Condition)) else where
    return [Filter(condition) for condition in conditions]


class _Operand:
    """The right-hand side of a condition, and the comparison of values with it."""

    def __init__(self, condition: Condition) -> None:
        name, self._symbol, self._text = condition
        self._operator = OPERATORS[self._symbol]
        self._number = _parse_number(self._text)
        if name == "status" and self._symbol in ("=", "!="):
            self._text = parse_status(self._text)
        elif name == "duration" and self._symbol != "~":
            self._number = _parse_duration(self._text)
        elif name == "started" and self._symbol != "~":
            self._number = _parse_started(self._text).timestamp()

    def compare(self, value: Any) -> bool:
        if self._symbol == "~":
            return self._text.lower() in as_text(value).lower()
        if self._symbol == "!=":
            return not self._equals(value)
        if self._symbol == "=":
            return self._equals(value)
        if _is_number(value):
            return self._number is not None and bool(self._operator(value, self._number))
        if isinstance(value, datetime):
            return self._number is not None and bool(self._operator(value.timestamp(), self._number))
        return isinstance(value, str) and self._number is None and bool(self._operator(value, self._text))

    def _equals(self, value: Any) -> bool:
        if isinstance(value, str):
            return value == self._text
        if isinstance(value, datetime):
            return value.timestamp() == self._number
        if _is_number(value):
            return self._number is not None and (value == self._number or (value != value and self._is_nan()))
        if isinstance(value, bool):
            return self._text.lower() == str(value).lower()
        if value is None:
            return self._text.lower() in ("none", "null")
        return _as_json(value) == _as_json(_parse_json(self._text))

    def _is_nan(self) -> bool:
        return self._number != self._number


def sort_runs(runs: Sequence[AnyRun], name: Name, descending: bool = False) -> List[AnyRun]:
    """Sort runs by a name. Numbers come first, then texts, then other values such as NaN, then runs without a value.

    If a run has several values, the smallest counts, or the largest if `descending`. Runs with equal values keep their
    order.
    """
    choose = max if descending else min
    numbers: List[Tuple[Any, AnyRun]] = []
    texts: List[Tuple[Any, AnyRun]] = []
    incomparable: List[AnyRun] = []
    missing: List[AnyRun] = []
    for run in runs:
        values = [value.timestamp() if isinstance(value, datetime) else value for value in name.values(run)]
        own_numbers = [value for value in values if isinstance(value, (int, float)) and value == value]
        own_texts = [as_text(value) for value in values if not isinstance(value, (int, float, type(None)))]
        if own_numbers:
            numbers.append((choose(own_numbers), run))
        elif any(own_texts):
            texts.append((choose(filter(None, own_texts)), run))
        else:
            (incomparable if any(value is not None for value in values) else missing).append(run)
    for group in (numbers, texts):
        group.sort(key=operator.itemgetter(0), reverse=descending)
    return [run for _, run in [*numbers, *texts]] + incomparable + missing


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_text(value: Any) -> str:
    """Return a value as text, in full: a time in ISO 8601, a text as it is, other values as JSON."""
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parse_number(text: str) -> Union[int, float, None]:
    for number_type in (int, float):
        try:
            return None if "_" in text else number_type(text)
        except ValueError:
            continue
    return None


def _parse_duration(text: str) -> float:
    age = parse_age(text)
    number = age.total_seconds() if age else _parse_number(text)
    if number is None:
        raise ConditionError(f"'{text}' is not a duration. Use seconds, or 90s, 15m, 12h, 2d or 1w.")
    return number


def _parse_started(text: str) -> datetime:
    age = parse_age(text)
    time = datetime.now(timezone.utc) - age if age else parse_time(text)
    if time is None:
        raise ConditionError(f"'{text}' is not a time. Use 2d (or s, m, h, w) or 2024-01-31T09:00.")
    return time

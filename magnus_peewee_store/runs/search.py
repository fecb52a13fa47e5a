"""Find runs by conditions on their fields, parameters and metrics.

A condition compares a name with a value, such as `rmse<0.5`.
"""

import functools
import html
import json
import operator
import re
from collections import Counter
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import ConditionError, InvalidValueError
from magnus_peewee_store.fragments import UNKNOWN, longest_prefix, own_name, parent_branch
from magnus_peewee_store.heartbeat import DIED
from magnus_peewee_store.metrics import SERIES_VALUES, choose, is_iteration, is_number
from magnus_peewee_store.runs.merging import is_same_value
from magnus_peewee_store.runs.read import parse_status, suggest
from magnus_peewee_store.runs.summaries import RunSummary, iter_metrics, iter_summaries
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import parse_age, parse_time, to_created_at

PARAMS, METRICS = "params.", "metrics."  # prefixes that say whether a name is a parameter or a metric
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
OPERATORS = ("=", "!=", *COMPARISONS, "~")  # `~` means "contains"
ONE_OF, NONE_OF = "one of", "none of"  # what `=` and `!=` with several tags mean
# The fields that the run's own row, its annotations and its heartbeats hold.
HEADER_FIELDS = ("run_id", "status", "state", "tag", "note", "pipeline", "started", "user", "host", "environment")
VALUE_FIELDS = ("project", "commit")  # those that only a summary with values has
LISTS: Dict[str, Callable[[RunSummary], List[str]]] = {  # fields with several values
    "tag": lambda run: list(filter(None, [run.tag, *run.tags])),
    "note": lambda run: [note.text for note in run.notes],
}
FIELDS: Dict[str, Callable[[RunSummary], Any]] = {
    "run_id": lambda run: run.run_id,
    "status": lambda run: run.status,
    "state": lambda run: run.state,
    "tag": lambda run: ", ".join(LISTS["tag"](run)),
    "note": lambda run: ", ".join(LISTS["note"](run)),
    "pipeline": lambda run: run.pipeline or "",
    "started": lambda run: run.started,
    "duration": lambda run: run.duration,
    "steps_done": lambda run: run.steps_done,
    "steps_known": lambda run: run.steps_known,
    "failed_step": lambda run: run.failed_step or "",
    "project": lambda run: run.project or "",
    "commit": lambda run: run.commit or "",
    "user": lambda run: run.user or "",
    "host": lambda run: run.host or "",
    "environment": lambda run: run.environment or "",
}
MOST_COLUMNS = 20  # parameters and metrics that a notebook shows

_CONDITION = re.compile(
    r"""\s*(?: "(?P<double>[^"]*)" | '(?P<single>[^']*)' | (?P<bare>.*?) )\s*
    (?P<operator>==|!=|<=|>=|=|<|>|~)(?P<value>.*)""",
    re.DOTALL | re.VERBOSE,
)


_SECOND_CONDITION = re.compile(
    r"(?P<value>.*?)\s+(?P<link>and|or|&&|\|\|)\s+(?P<rest>.+?(?:[=<>~]).*)", re.DOTALL | re.IGNORECASE
)


class Condition(NamedTuple):
    """A comparison that a run meets if any of the name's values meets it."""

    name: str
    """A field, a parameter or a metric.

    The last part of a metric's name is enough. A metric with iterations means its last value; `loss.min`, `loss.max`,
    `loss.first` and `loss.7` mean other values of it.
    """
    operator: str
    """One of `=`, `!=`, `<`, `<=`, `>`, `>=`, and `~`, which means "contains" and ignores case.

    For tags also `one of` and `none of`, with commas in the value. `tag=a,b` means `one of`.
    """
    value: str
    """The value as a text. A number is compared with numbers, too."""


AnyCondition = Union[str, Condition]


def parse_condition(text: str) -> Condition:
    """Parse a condition such as `rmse<0.5`.

    The first operator ends the name. A name that contains an operator must be in quotes. Quotes around the name or the
    value are removed.
    """
    parts = _CONDITION.fullmatch(text)
    name = next((parts[key] for key in ("double", "single", "bare") if parts[key] is not None), "") if parts else ""
    if not parts or not name:
        raise ConditionError(
            f"'{text}' is not a condition. Write a name, one of {' '.join(OPERATORS)} and a value, such as rmse<0.5."
        )
    value = parts["value"].strip()
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    second = None if is_quoted else _SECOND_CONDITION.fullmatch(value)
    if second:
        first = text[: text.rindex(value)] + second["value"]
        advice = f"Write each in its own --where: --where '{first.strip()}' --where '{second['rest']}'."
        if second["link"].lower() in ("or", "||"):
            advice = "There is no 'or'. Run the command once for each."
        raise ConditionError(
            f"'{text.strip()}' looks like two conditions. {advice} If it is one value, put the value in quotes."
        )
    symbol = "=" if parts["operator"] == "==" else parts["operator"]
    if name == "tag" and "," in value and not is_quoted:
        symbol = {"=": ONE_OF, "!=": NONE_OF}.get(symbol, symbol)
    return Condition(name, symbol, value[1:-1] if is_quoted else value)


class Name:
    """A name in a condition, or to sort by: a field, parameters or metrics.

    The prefix `params.` or `metrics.` says which of the two it is. A metric's name may have an ending that chooses a
    value of a series: `loss.min`. If `is_full`, the name is one of `all_names`. It means only this parameter or metric,
    and is found at once.
    """

    def __init__(self, text: str, is_full: bool = False) -> None:
        self.text = text
        self._full_name = _without_prefix(text) if is_full else None
        self.is_field = text in FIELDS
        self.needs_values = not self.is_field or text in VALUE_FIELDS
        # The names of a parameter to look for, in this order, and whether to look for the metric with it.
        self._lookups: List[Tuple[Optional[str], bool]] = [(text, True)]
        if text.startswith(PARAMS):
            # A parameter may have an outer dictionary named `params`, and a metric a step.
            self._lookups.insert(0, (text[len(PARAMS) :], False))
        elif text.startswith(METRICS):
            self._lookups = [(None, True), (text, False)]
        whole, self._ending = _split_ending(text)
        self._means, self._whole_means = metric_test(text), metric_test(whole)
        self.labels: Dict[str, str] = {}
        """See `label_branches`."""

    def values(self, run: RunSummary) -> List[Any]:
        """Return the values that a run has for the name. If `needs_values`, it must be summarized with values."""
        if self.text in LISTS:
            return LISTS[self.text](run) or [""]
        if self.is_field:
            return [FIELDS[self.text](run)]
        return [*self.named_values(run).values()]

    def named_values(self, run: RunSummary) -> Dict[str, Any]:
        """Return the parameters and metrics of a run that the name means, by full name.

        A name that is stored as written beats one with an ending.
        """
        if self._full_name is not None:
            values = run.metrics if self.text.startswith(METRICS) else run.params
            return {self.text: values[self._full_name]} if self._full_name in values else {}
        found: Dict[str, Any] = {}
        for param, has_metric in self._lookups:
            for name, value in run.params.items():
                if param is not None and (name == param or _without_brackets(name) == param):
                    found[f"{PARAMS}{name}"] = value
            if has_metric:
                found.update((f"{METRICS}{name}", value) for name, value in run.metrics.items() if self._means(name))
            if found:
                return found
        for name in filter(self._whole_means, run.metrics) if self._ending else ():
            point = choose(run.series.get(name, run.metrics[name]), self._ending)
            if point:
                found[f"{METRICS}{name}.{self._ending}"] = point.value
        return found


def metric_test(name: str) -> Callable[[str], bool]:
    """Return a function that returns True for the full names of the metrics that a name means."""
    ending = f".{name[len(METRICS) :] if name.startswith(METRICS) else name}"

    @functools.lru_cache(maxsize=None)  # Many runs have the same metrics.
    def is_meant(metric: str) -> bool:
        return f".{metric}".endswith(ending) or f".{_without_brackets(metric)}".endswith(ending)

    return is_meant


def _without_brackets(name: str) -> str:
    """Return a name of `flatten` as a dot path."""
    return name.replace("[", ".").replace("]", "") if name.endswith("]") else name


def label_branches(store: DBStore, name: Name, found: Sequence[RunSummary]) -> None:
    """If a name means several metrics or parameters of the runs, set its labels: what tells them apart.

    The labels are in the same order for all runs. A label is the name of the branch, or the whole name if the branch
    alone does not tell them apart.
    """
    if name.is_field:
        return
    names = sorted({each for run in found for each in name.named_values(run)}, key=_by_number)
    if len(names) < 2:
        return
    steps = {step for _, metrics in iter_metrics(store, [run.run_id for run in found]) for step in metrics}
    labels = [_branch_label(_without_prefix(each), steps) for each in names]
    is_clear = all(labels) and len({*labels}) == len(labels)
    name.labels = dict(zip(names, labels if is_clear else map(_without_prefix, names)))


def _by_number(name: str) -> List[Tuple[bool, int, str]]:
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split(".")]


def _branch_label(metric: str, steps: Set[str]) -> str:
    """Return the names of the branches that a metric belongs to, without those of the steps; empty for no branch."""
    values: List[str] = []
    step = longest_prefix(metric, steps)
    while step and parent_branch(step):
        branch = parent_branch(step)
        step = longest_prefix(branch, steps)
        values.insert(0, own_name(branch, step or ""))
    return ".".join(values)


class Filter:
    """A condition that is ready to be evaluated on many runs. A value that does not fit raises a ConditionError."""

    def __init__(self, condition: AnyCondition) -> None:
        name, symbol, text = parse_condition(condition) if isinstance(condition, str) else condition
        if symbol not in (*OPERATORS, ONE_OF, NONE_OF):
            raise ConditionError(f"'{symbol}' is not one of {' '.join(OPERATORS)}.")
        self.name = Name(name)
        self._symbol, self._text = symbol, text
        self._number = parse_number(text)
        self._start: Any = None  # the time that `started` is compared with, or the start of a day
        self._end: Any = None
        self._compared: Set[bool] = set()  # whether the values that were compared by size are of the same type
        if name in ("status", "state") and symbol in ("=", "!="):
            self._text = parse_status(text)
        elif name == "duration" and symbol != "~":
            self._number = _parse_duration(text)
        elif name == "started" and symbol != "~":
            self._start, self._end = parse_started(text)

    def is_met_by(self, run: RunSummary) -> bool:
        """Return True if any value that the run has for the name meets the condition. For `tag!=`, all must meet it.

        The status of a run that died is both what magnus wrote and its state.
        """
        name = self.name.text
        values = [run.status, run.state] if name == "status" else self.name.values(run)
        quantifier = all if name in (*LISTS, "status") and self._symbol in ("!=", NONE_OF) else any
        return quantifier(map(self._is_met_by_value, values))

    def check_type(self) -> None:
        """Raise a ConditionError if all compared values were numbers, and its own value is not one."""
        if self._compared == {False}:
            name, symbol = self.name.text, self._symbol
            raise ConditionError(
                f"Cannot compare '{name}' {symbol} '{self._text}': all its values are numbers. Use a number."
            )

    # What the database can use to leave out runs.

    def is_on_header(self) -> bool:
        """Return True if the run's own row and its annotations are enough to evaluate it."""
        return self.name.text in HEADER_FIELDS

    def earliest_start(self) -> Optional[datetime]:
        """Return the earliest time at which a run may start to meet the condition; None if there is no limit."""
        return self._start if self._symbol in ("=", ">", ">=") else None

    def header_texts(self) -> List[str]:
        """Return texts that a run's own row must contain to meet the condition, ignoring case."""
        is_written = self.name.text == "status" and self._symbol == "=" and self._text not in (UNKNOWN, *DIED)
        return [json.dumps(self._text)] if is_written else []

    def tags(self) -> List[str]:
        """Return tags that a run must have to meet the condition, in its own row or added later."""
        # Other software may escape characters outside ASCII differently.
        is_tag = self.name.text == "tag" and self._symbol == "=" and self._text and self._text.isascii()
        return [self._text] if is_tag else []

    def _is_met_by_value(self, value: Any) -> bool:
        if self._symbol == "~":
            return self._text.lower() in as_text(value).lower()
        if self._symbol in (ONE_OF, NONE_OF):
            return (value in map(str.strip, self._text.split(","))) == (self._symbol == ONE_OF)
        if self._symbol in ("=", "!="):
            return self._equals(value) == (self._symbol == "=")
        compare = COMPARISONS[self._symbol]
        if isinstance(value, datetime):
            if self._start < self._end and self._symbol in (">", "<="):
                return bool(value >= self._end) == (self._symbol == ">")
            return bool(compare(value, self._start))
        if not is_number(value) and not isinstance(value, str):
            return False
        is_same_type = is_number(value) == (self._number is not None)
        self._compared.add(is_same_type or isinstance(value, str))
        return is_same_type and bool(compare(value, self._text if self._number is None else self._number))

    def _equals(self, value: Any) -> bool:
        if isinstance(value, str):
            return value == self._text
        if isinstance(value, datetime):
            return bool(value == self._start or self._start <= value < self._end)
        if is_number(value):
            is_nan = value != value and self._number != self._number
            return self._number is not None and (value == self._number or is_nan)
        if isinstance(value, bool):
            return self._text.lower() == str(value).lower()
        if value is None:
            return self._text.lower() in ("none", "null")
        return is_same_value(json.dumps(value), self._text)


def conditions_for(status: Optional[str], tag: Optional[str], since: Optional[datetime]) -> List[Condition]:
    """Return the conditions that a run has this status and tag, and started at this time or later."""
    started = since and since.astimezone().isoformat()
    values = (("status", "=", status), ("tag", "=", tag), ("started", ">=", started))
    return [Condition(name, symbol, value) for name, symbol, value in values if value]


def make_filters(where: Union[AnyCondition, Sequence[AnyCondition]]) -> List[Filter]:
    """Return a filter for each condition. `where` may be a single condition."""
    return [Filter(each) for each in ([where] if isinstance(where, (str, Condition)) else where)]


def sort_runs(runs: Sequence[RunSummary], name: Name, descending: bool = False) -> List[RunSummary]:
    """Sort runs by a name. Numbers come first, then texts, then other values such as NaN, then runs without a value.

    If a run has several values, the smallest counts, or the largest if `descending`. Runs with equal values keep their
    order.
    """
    choose = max if descending else min
    groups: List[List[Tuple[Any, RunSummary]]] = [[], [], [], []]  # each run with what it is sorted by
    for run in runs:
        values = [value.timestamp() if isinstance(value, datetime) else value for value in name.values(run)]
        numbers = [value for value in values if isinstance(value, (int, float)) and value == value]
        texts = [as_text(value) for value in values if not isinstance(value, (int, float, type(None)))]
        if numbers:
            groups[0].append((choose(numbers), run))
        elif any(texts):
            groups[1].append((choose(filter(None, texts)), run))
        else:
            groups[2 if any(value is not None for value in values) else 3].append((0, run))
    return [run for group in groups for _, run in sorted(group, key=operator.itemgetter(0), reverse=descending)]


_encode = json.JSONEncoder(ensure_ascii=False).encode  # Made once, because `json.dumps` makes one for each call.


def as_text(value: Any) -> str:
    """Return a value as text, in full: a time in ISO 8601, a text as it is, other values as JSON."""
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return value if isinstance(value, str) else _encode(value)


def parse_number(text: str) -> Union[int, float, None]:
    """Return the number that a text is; None if it is not one."""
    for number_type in (int, float):
        try:
            return None if "_" in text else number_type(text)
        except ValueError:
            continue
    return None


def _parse_duration(text: str) -> float:
    age = parse_age(text)
    number = age.total_seconds() if age is not None else parse_number(text)
    if number is None:
        raise ConditionError(f"'{text}' is not a duration. Use seconds, or 90s, 15m, 12h, 2d or 1w.")
    return number


def parse_started(text: str) -> Tuple[datetime, datetime]:
    """Parse a time or an age. Return its start and its end: of a date, those of the day; otherwise, the same time."""
    age = parse_age(text)
    time = datetime.now(timezone.utc) - age if age is not None else parse_time(text)
    if time is None:
        raise ConditionError(f"'{text}' is not a time. Use 2d (or s, m, h, w) or 2024-01-31T09:00.")
    try:
        next_day = parse_time((date.fromisoformat(text.strip()) + timedelta(days=1)).isoformat())
    except (OverflowError, ValueError):  # It is not a date.
        next_day = None
    return time, next_day or time


def all_names(found: Sequence[RunSummary], prefix: str) -> List[str]:
    """Return the names of all parameters or metrics, each with its prefix, in the order in which runs have them."""
    dictionaries = [run.params if prefix == PARAMS else run.metrics for run in found]
    return [f"{prefix}{name}" for name in dict.fromkeys(name for each in dictionaries for name in each)]


def full_names(found: Sequence[RunSummary], *prefixes: str) -> List[Name]:
    """Return a name for each parameter or metric; see `all_names`."""
    return [Name(text, is_full=True) for prefix in prefixes for text in all_names(found, prefix)]


def differs(name: Name, found: Sequence[RunSummary]) -> bool:
    """Return True if the runs do not all have the same values for a name. A single run has nothing to differ from."""
    return len(found) == 1 or len({as_text([*map(str, name.values(run))]) for run in found}) > 1


def without_equal(found: Sequence[RunSummary]) -> List[RunSummary]:
    """Return the runs without the parameters and metrics that all have alike. Series stay: their curves may differ."""
    kept = {name.text for name in full_names(found, PARAMS, METRICS) if differs(name, found)}
    kept.update(f"{METRICS}{name}" for run in found for name in run.series)
    return [
        replace(
            run,
            params={name: value for name, value in run.params.items() if f"{PARAMS}{name}" in kept},
            metrics={name: value for name, value in run.metrics.items() if f"{METRICS}{name}" in kept},
        )
        for run in found
    ]


def headings(names: Sequence[str]) -> List[str]:
    """Return the names without their prefixes. The last part of a metric's name is enough if no other name ends in it.

    An ending that chooses a value of a series belongs to the last part.
    """
    texts = [_without_prefix(name) for name in names]
    last = [_last_part(text) for text in texts]
    counts = Counter(last)
    return [
        short if name.startswith(METRICS) and counts[short] == 1 else text
        for name, text, short in zip(names, texts, last)
    ]


def _last_part(name: str) -> str:
    whole, ending = _split_ending(name)
    last = whole.rpartition(".")[2] or whole
    return f"{last}.{ending}" if ending else last


def _split_ending(name: str) -> Tuple[str, str]:
    """Return a name without the ending that chooses a value of a series, and this ending; empty if it has none."""
    whole, _, ending = name.rpartition(".")
    has_ending = whole and (ending in SERIES_VALUES or is_iteration(ending))
    return (whole, ending) if has_ending else (name, "")


def rounded(value: Any) -> Any:
    """Return a value with its numbers rounded to 6 significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return value


def _without_prefix(text: str) -> str:
    return next((text[len(prefix) :] for prefix in (PARAMS, METRICS) if text.startswith(prefix)), text)


class RunList(List[RunSummary]):
    """Runs that were found. A notebook displays them as a table."""

    def _repr_html_(self) -> str:
        columns = [Name(name) for name in ("run_id", "state", "started", "duration", "tag")]
        columns += full_names(self, PARAMS, METRICS)[:MOST_COLUMNS]
        cells = [[", ".join(map(as_text, map(rounded, name.values(run)))) for name in columns] for run in self]
        rows = [headings([name.text for name in columns]), *cells]
        lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def search(
    store: DBStore,
    where: Union[AnyCondition, Sequence[AnyCondition]] = (),
    order_by: Optional[str] = None,
    limit: Optional[int] = None,
    descending: bool = False,
) -> RunList:
    """Find the runs that meet all conditions, with their parameters and metrics.

    A condition compares a name with a value by `=`, `!=`, `<`, `<=`, `>`, `>=`, or by `~`, which means "contains".
    The name is a field (`run_id`, `status`, `state`, `tag`, `note`, `pipeline`, `started`, `duration`, `steps_done`,
    `steps_known`, `failed_step`, `project`, `commit`, `user`, `host`, `environment`), a parameter or a metric. `rmse`
    means each metric whose name ends in it, such as `train.rmse`. Of a metric with iterations, which
    `track_this(step=2, rmse=...)` wrote, it means the last value; `rmse.min`, `rmse.max`, `rmse.first` and `rmse.2`
    mean others. A run meets a condition if one of its metrics does. If a parameter has the same name, write
    `params.rmse` or `metrics.rmse`. `tag=a,b` means one of two tags.

    Args:
        where: The conditions, such as `"rmse<0.5"`.
        order_by: The name to sort by. If a run has several values, the smallest counts, or the largest if `descending`.
            Runs without the name come last. By default, the newest run comes first.
        limit: The largest number of runs.
        descending: Whether to sort from large to small.

    Raises:
        ConditionError: If a condition is not valid, or no run has a name of `where` or `order_by`.
        InvalidValueError: If the limit is less than 1.

    Example:
        >>> from magnus.datastore import StepLog
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> for run_id, rmse in (("first", 0.7), ("second", 0.4)):
        ...     _ = store.create_run_log(run_id)
        ...     step = StepLog(name="train", internal_name="train", user_defined_metrics={"rmse": rmse})
        ...     store.add_step_log(step, run_id)
        >>> [(run.run_id, run.metrics) for run in runs.search(store, where=["rmse<0.5"])]
        [('second', {'train.rmse': 0.4})]
    """
    return RunList(_search(store, make_filters(where), order_by, limit, descending))


def list_runs(
    store: DBStore, status: str = "", tag: str = "", since: Optional[datetime] = None, limit: int = 20
) -> RunList:
    """List runs, newest first.

    Args:
        status: Only runs with this status, or `STALE` or `INTERRUPTED`.
        tag: Only runs with this tag.
        since: Only runs that started at this time or later. A time without a zone is local time.
        limit: The largest number of runs.

    Raises:
        ConditionError: If there is no such status.
        InvalidValueError: If the limit is less than 1.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run", tag="nightly")
        >>> [run.status for run in runs.list_runs(store, tag="nightly")]
        ['CREATED']
    """
    return search(store, conditions_for(status, tag, since), limit=limit)


def search_page(
    store: DBStore,
    filters: Sequence[Filter],
    order_by: Optional[str],
    limit: Optional[int],
    descending: bool,
    with_values: bool = True,
) -> Tuple[List[RunSummary], int]:
    """Return what `search` does, and how many runs there would be without the limit. Values are read where needed."""
    if order_by is not None or not all(each.is_on_header() for each in filters):
        found = _search(store, filters, order_by, None, descending, with_values)
        return found[:limit], len(found)
    found = _search(store, filters, None, limit, descending, with_values)
    if limit is None or len(found) < limit:
        return found, len(found)
    if not filters:
        return found, store.table.count_runs(fragments.RUN_LOG)
    runs = _candidates(store, filters, None, with_values=False, with_steps=False)
    return found, sum(all(each.is_met_by(run) for each in filters) for run in runs)


def _search(
    store: DBStore,
    filters: Sequence[Filter],
    order_by: Optional[str],
    limit: Optional[int],
    descending: bool,
    with_values: bool = True,
) -> List[RunSummary]:
    if limit is not None and limit < 1:
        raise InvalidValueError(f"The limit must be at least 1, not {limit}.")
    order = Name(order_by) if order_by is not None else None
    names = {name.text: name for name in [each.name for each in filters] + ([order] if order else [])}
    with_values = with_values or any(name.needs_values for name in names.values())
    unseen = [name for name in names.values() if not name.is_field]
    found: List[RunSummary] = []
    for run in _candidates(store, filters, None if order else limit, with_values):
        unseen = [name for name in unseen if not name.values(run)]
        if all(each.is_met_by(run) for each in filters):
            found.append(run)
            if not order and len(found) == limit:
                return found
    check_names(store, unseen)
    for each in filters:
        each.check_type()
    return (sort_runs(found, order, descending) if order else found)[:limit]


def _candidates(
    store: DBStore, filters: Sequence[Filter], limit: Optional[int], with_values: bool = True, with_steps: bool = True
) -> Iterator[RunSummary]:
    """Yield runs, newest first. The database leaves out some of those that do not meet the filters, for speed.

    A limit says how many runs to read first, if the caller may not need all of them.
    """
    texts = [text for each in filters for text in each.header_texts()]
    tags = {json.dumps(tag): (fragments.TAG, tag) for each in filters for tag in each.tags()}
    starts = [to_created_at(time) for time in [each.earliest_start() for each in filters] if time]
    seen: Set[str] = set()
    while True:
        found = store.table.runs(
            fragments.RUN_LOG,
            since=max(starts, default=None),
            containing=texts,
            containing_or_with_row=tags,
            limit=limit,
        )
        run_ids = [run_id for run_id in dict.fromkeys(run_id for run_id, _ in found) if run_id not in seen]
        yield from iter_summaries(store, run_ids, with_values, with_steps)
        if limit is None or len(found) < limit:
            return
        seen.update(run_ids)
        limit *= 4


def check_names(store: DBStore, names: Sequence[Name]) -> None:
    """Raise a ConditionError unless each name is a parameter or metric of some run, or there are no runs."""
    if not names:
        return
    unseen, has_runs = list(names), False
    known: Set[str] = set()
    for run in _candidates(store, (), None):
        has_runs = True
        unseen = [name for name in unseen if not name.values(run)]
        known.update(run.params, run.metrics)
    if unseen and has_runs:
        name = unseen[0].text
        # A user may have misspelled the last part of a metric's name.
        short = [each.rpartition(".")[2] for each in known]
        advice = suggest(name, sorted({*short, *known, *FIELDS}))
        raise ConditionError(
            f"No run has a parameter or metric '{name}'."
            f"{advice or ' To see the names, run magnus db runs --params --metrics.'}"
        )

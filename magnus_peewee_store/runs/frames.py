"""Convert runs to pandas DataFrames, and plot metrics. pandas and plotly are imported only when they are needed."""

import html
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import ConditionError, MissingLibraryError
from magnus_peewee_store.metrics import Point, Series, flatten_metrics, is_finite, is_number
from magnus_peewee_store.runs.read import find_runs, suggest
from magnus_peewee_store.runs.search import FIELDS, METRICS, PARAMS, AnyCondition, as_text, metric_test, search
from magnus_peewee_store.runs.summaries import RunSummary, iter_metrics
from magnus_peewee_store.store import DBStore

AnyRuns = Union[str, RunSummary, Sequence[Union[str, RunSummary]]]

MOST_MARKERS = 50  # A longer curve is a line without points.
NUMBERS = {"duration": "float64", "steps_done": "int64", "steps_known": "int64"}


def to_dataframe(
    store: DBStore,
    where: Union[AnyCondition, Sequence[AnyCondition]] = (),
    order_by: Optional[str] = None,
    limit: Optional[int] = None,
    descending: bool = False,
) -> Any:
    """Find runs like `search`, and return a DataFrame with one row per run.

    Its columns are the fields of `search`, then `params.<name>` and `metrics.<step>.<name>`, as in
    `mlflow.search_runs`. `started` is a time in UTC, and `duration` is in seconds. The arguments are those of `search`.

    Raises:
        MissingLibraryError: If pandas is not installed.
        ConditionError: As for `search`.
    """
    pandas = _import_pandas()
    found = search(store, where, order_by, limit, descending)
    columns: Dict[str, Any] = {name: [value(run) for run in found] for name, value in FIELDS.items()}
    for name, values in columns.items():
        if name == "started":
            columns[name] = pandas.to_datetime(values, utc=True)
        elif name in NUMBERS:
            columns[name] = pandas.array(values, dtype=NUMBERS[name])
        else:
            columns[name] = _texts(pandas, values)
    columns.update(_columns(pandas, PARAMS, [run.params for run in found]))
    columns.update(_columns(pandas, METRICS, [run.metrics for run in found]))
    return pandas.DataFrame(columns)


def metrics_dataframe(
    store: DBStore,
    where: Union[AnyCondition, Sequence[AnyCondition]] = (),
    order_by: Optional[str] = None,
    limit: Optional[int] = None,
    descending: bool = False,
) -> Any:
    """Find runs like `search`, and return a DataFrame with one row for each metric of a run, or point of a series.

    Its columns are:

    - `run_id`, `step` (the step's own name), `branch` (empty outside of branches) and `metric`.
    - `iteration`: the number that `track_this(step=...)` got; empty for a metric without iterations.
    - `value`: a float; empty for what is no number.
    - `text`: the value as written, exact for large integers.

    The branches of a map are rows, so that they can be grouped or drawn as lines. The arguments are those of `search`.

    Raises:
        MissingLibraryError: If pandas is not installed.
        ConditionError: As for `search`.
    """
    run_ids = [run.run_id for run in search(store, where, order_by, limit, descending)]
    return _frame_of_points(_points(store, run_ids))


def metric_history(store: DBStore, run_ids: AnyRuns, metric: str) -> Any:
    """Return a DataFrame with the values of one metric of several runs, in the order of iterations.

    Its columns are those of `metrics_dataframe`.

    Args:
        run_ids: The runs: ids, beginnings of ids, `latest`, or what `search` returns; or one of these.
        metric: The name of the metric, or the last part of it.

    Raises:
        MissingLibraryError: If pandas is not installed.
        RunNotFoundError: If there is no such run.
        ConditionError: If no run has such a metric.
    """
    return _frame_of_points(find_history(store, run_ids, metric))


def find_history(store: DBStore, run_ids: AnyRuns, metric: str) -> List["MetricPoint"]:
    """Return the points of `metric_history`."""
    each_run = [run_ids] if isinstance(run_ids, (str, RunSummary)) else run_ids
    whole_ids = find_runs(store, [run if isinstance(run, str) else run.run_id for run in each_run])
    is_meant = metric_test(metric)
    known: Set[str] = set()
    found = []
    for point in _points(store, whole_ids):
        known.add(point.full_name)
        if is_meant(point.full_name):
            found.append(point)
    if not found:
        advice = suggest(metric, sorted({*known, *(each.rpartition(".")[2] for each in known)}))
        raise ConditionError(f"None of these runs has the metric '{metric}'.{advice}")
    return found


class MetricPoint(NamedTuple):
    """A row of `metrics_dataframe`."""

    run_id: str
    step: str
    branch: str
    metric: str
    iteration: Optional[int]
    value: Any

    @property
    def full_name(self) -> str:
        """The name of the metric with its step and branch."""
        return ".".join(filter(None, [self.branch, self.step, self.metric]))


def _points(store: DBStore, run_ids: Sequence[str]) -> Iterator[MetricPoint]:
    for run_id, metrics_of in iter_metrics(store, run_ids):
        for name, metrics in metrics_of.items():
            branch = fragments.parent_branch(name)
            step = fragments.own_name(name, branch)
            for metric, value in flatten_metrics(metrics).items():
                points = value.points if isinstance(value, Series) else [Point(None, value)]
                for iteration, each in points:
                    yield MetricPoint(run_id, step, branch, metric, iteration, each)


def plot(store: DBStore, run_ids: AnyRuns, metric: str) -> Any:
    """Return a plotly figure with the curve of one metric of several runs.

    If the metric belongs to several branches or steps of a run, each has a curve of its own. A value without iterations
    is one point. The arguments are those of `metric_history`.

    Raises:
        MissingLibraryError: If plotly is not installed.
        RunNotFoundError: If there is no such run.
        ConditionError: If no run has such a metric, or it has no numbers.
    """
    try:
        from plotly import graph_objects
    except ImportError:
        raise MissingLibraryError("A plot needs plotly, which is not installed. Run: pip install plotly") from None
    curves: Dict[Tuple[str, str], List[MetricPoint]] = {}
    for point in find_history(store, run_ids, metric):
        if is_number(point.value):
            curves.setdefault((point.run_id, point.full_name), []).append(point)
    if not curves:
        raise ConditionError(f"The metric '{metric}' has no numbers.")
    names = {name for _, name in curves}
    figure = graph_objects.Figure()
    for (run_id, name), points in curves.items():
        label = f"{run_id} {name}" if len(names) > 1 else run_id
        figure.add_scatter(
            x=[point.iteration or 0 for point in points],
            y=[float(point.value) if is_finite(point.value) else None for point in points],
            name=html.escape(label, quote=False),
            mode="lines+markers" if len(points) <= MOST_MARKERS else "lines",
        )
    title = html.escape(metric, quote=False)
    figure.update_layout(title=title, xaxis_title="iteration", yaxis_title=title, showlegend=True)
    return figure


def _frame_of_points(points: Iterable[MetricPoint]) -> Any:
    pandas = _import_pandas()
    rows = list(points)
    columns = {name: _texts(pandas, [getattr(row, name) for row in rows]) for name in MetricPoint._fields[:4]}
    columns["iteration"] = pandas.array([row.iteration for row in rows], dtype="Int64")
    numbers = [float(row.value) if is_finite(row.value) or isinstance(row.value, float) else None for row in rows]
    columns["value"] = pandas.Series(numbers, dtype="float64")
    columns["text"] = _texts(pandas, [as_text(row.value) for row in rows])
    return pandas.DataFrame(columns)


def _columns(pandas: Any, prefix: str, dictionaries: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    names = dict.fromkeys(name for dictionary in dictionaries for name in dictionary)
    return {f"{prefix}{name}": _values(pandas, [dictionary.get(name) for dictionary in dictionaries]) for name in names}


def _texts(pandas: Any, values: Sequence[Optional[str]]) -> Any:
    """Return a column of texts, also if it has no values."""
    return pandas.Series([*values, ""])[:-1]


def _values(pandas: Any, values: List[Any]) -> Any:
    """Return a column that keeps all digits of integers, which pandas would convert to floats."""
    kinds = {type(value) for value in values if value is not None}
    integers = [value for value in values if type(value) is int]
    if kinds == {int} and None in values and all(-(2**63) <= value < 2**63 for value in integers):
        return pandas.array(values, dtype="Int64")
    has_large_integers = any(abs(value) > 2**53 for value in integers)
    return pandas.Series(values, dtype=object) if has_large_integers and (kinds != {int} or None in values) else values


def _import_pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingLibraryError("DataFrames need pandas, which is not installed. Run: pip install pandas") from None
    return pandas

"""Convert runs to pandas DataFrames. pandas is imported only when a DataFrame is made."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import MissingLibraryError
from magnus_peewee_store.logs import flatten
from magnus_peewee_store.runs.search import FIELDS, METRICS, PARAMS, AnyCondition, search
from magnus_peewee_store.runs.summaries import iter_metrics
from magnus_peewee_store.store import DBStore

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
    `mlflow.search_runs`. `started` is a time in UTC, and `duration` is in seconds.

    Args:
        where: The conditions, such as `"rmse<0.5"`.
        order_by: The name to sort by.
        limit: The largest number of runs.
        descending: Whether to sort from large to small.

    Raises:
        MissingLibraryError: If pandas is not installed.
        ConditionError: If a condition is not valid.
        ConditionError: If no run has a name of `where` or `order_by`.
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
    """Find runs like `search`, and return a DataFrame with one row per metric of a run.

    Its columns are `run_id`, `step` (the step's own name), `branch` (empty outside of branches), `metric` and `value`.
    The branches of a map are rows, so that they can be grouped or drawn as lines.

    Args:
        where: The conditions, such as `"rmse<0.5"`.
        order_by: The name to sort the runs by.
        limit: The largest number of runs.
        descending: Whether to sort from large to small.

    Raises:
        MissingLibraryError: If pandas is not installed.
        ConditionError: If a condition is not valid.
        ConditionError: If no run has a name of `where` or `order_by`.
    """
    pandas = _import_pandas()
    rows: List[Tuple[str, str, str, str, Any]] = []
    run_ids = [run.run_id for run in search(store, where, order_by, limit, descending)]
    for run_id, metrics_of in iter_metrics(store, run_ids):
        for name, metrics in metrics_of.items():
            branch = fragments.parent_branch(name)
            step = fragments.own_name(name, branch)
            rows += [(run_id, step, branch, metric, value) for metric, value in flatten(metrics).items()]
    columns = {
        name: _texts(pandas, [str(row[index]) for row in rows])
        for index, name in enumerate(("run_id", "step", "branch", "metric"))
    }
    return pandas.DataFrame({**columns, "value": _values(pandas, [row[-1] for row in rows])})


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

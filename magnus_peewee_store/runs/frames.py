"""Convert runs to pandas DataFrames. pandas is imported only when a DataFrame is made."""

from typing import Any, Dict, List, Optional, Sequence, Union

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import MissingLibraryError
from magnus_peewee_store.logs import flatten
from magnus_peewee_store.runs.search import METRICS, PARAMS, AnyCondition, search
from magnus_peewee_store.runs.summaries import iter_metrics
from magnus_peewee_store.store import DBStore


def to_dataframe(
    store: DBStore,
    where: Union[AnyCondition, Sequence[AnyCondition]] = (),
    order_by: Optional[str] = None,
    limit: Optional[int] = None,
    descending: bool = False,
) -> Any:
    """Find runs like `search`, and return a DataFrame with one row per run.

    Its columns are named like those of `mlflow.search_runs`: `run_id`, `status`, `tags`, `started` (a time in UTC),
    `duration` (in seconds), `params.<name>` and `metrics.<step>.<name>`.

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
    columns: Dict[str, List[Any]] = {
        "run_id": [run.run_id for run in found],
        "status": [run.status for run in found],
        "tags": [run.tag for run in found],
        "started": pandas.to_datetime([run.started for run in found], utc=True),
        "duration": pandas.array([run.duration for run in found], dtype="float64"),
    }
    columns.update(_columns(PARAMS, [run.params for run in found]))
    columns.update(_columns(METRICS, [run.metrics for run in found]))
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
    rows = []
    run_ids = [run.run_id for run in search(store, where, order_by, limit, descending)]
    for run_id, metrics_of in iter_metrics(store, run_ids):
        for name, metrics in metrics_of.items():
            branch = fragments.parent_branch(name)
            step = fragments.own_name(name, branch)
            rows += [(run_id, step, branch, metric, value) for metric, value in flatten(metrics).items()]
    return pandas.DataFrame(rows, columns=["run_id", "step", "branch", "metric", "value"])


def _columns(prefix: str, dictionaries: Sequence[Dict[str, Any]]) -> Dict[str, List[Any]]:
    names = dict.fromkeys(name for dictionary in dictionaries for name in dictionary)
    return {f"{prefix}{name}": [dictionary.get(name) for dictionary in dictionaries] for name in names}


def _import_pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingLibraryError("DataFrames need pandas, which is not installed. Run: pip install pandas") from None
    return pandas

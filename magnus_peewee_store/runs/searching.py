"""Find runs by their fields, parameters and metrics."""

import json
from datetime import datetime
from typing import Callable, Iterator, List, Optional, Sequence, Set, Tuple, Union

from magnus_peewee_store import fragments
from magnus_peewee_store.db.rows import Requirement
from magnus_peewee_store.exceptions import InvalidValueError, UnknownNameError
from magnus_peewee_store.runs.conditions import (
    FIELDS,
    AnyCondition,
    AnyRun,
    Condition,
    Filter,
    Name,
    make_filters,
    sort_runs,
    without_number,
)
from magnus_peewee_store.runs.finding import suggest
from magnus_peewee_store.runs.listing import BATCH_SIZE, RunSummary, batches, summarize, summarize_headers
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import to_created_at

Reader = Callable[[DBStore, Sequence[str]], List[AnyRun]]  # reads runs, given a store and their ids


def search(
    store: DBStore,
    where: Union[AnyCondition, Sequence[AnyCondition]] = (),
    order_by: Optional[str] = None,
    limit: Optional[int] = None,
    descending: bool = False,
) -> List[RunSummary]:
    """Find the runs that meet all conditions, with their parameters and metrics.

    A condition compares a name with a value by `=`, `!=`, `<`, `<=`, `>`, `>=`, or by `~`, which means "contains".
    The name is a field (`run_id`, `status`, `tag`, `pipeline`, `project`, `user`, `host`, `started`, `duration`,
    `failed_step`), a parameter or a metric. `rmse` means each metric whose name ends in it, such as `train.rmse`. It
    also means `train.rmse.2`, which `track_this(step=2, rmse=...)` wrote. A run meets a condition if one of its metrics
    does. If a parameter has the same name, write `params.rmse` or `metrics.rmse`.

    Args:
        where: The conditions, such as `"rmse<0.5"`.
        order_by: The name to sort by. If a run has several values, the smallest counts, or the largest if `descending`.
            Runs without the name come last. By default, the newest run comes first.
        limit: The largest number of runs.
        descending: Whether to sort from large to small.

    Raises:
        ConditionError: If a condition is not valid.
        UnknownNameError: If no run has a name of `where` or `order_by`.
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
    return _search(store, make_filters(where), order_by, limit, descending, summarize)


def list_runs(
    store: DBStore, status: str = "", tag: str = "", since: Optional[datetime] = None, limit: int = 20
) -> List[RunSummary]:
    """List runs, newest first.

    Args:
        status: Only runs with this status.
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
    where = [Condition(name, "=", value) for name, value in (("status", status), ("tag", tag)) if value]
    where += [Condition("started", ">=", since.astimezone().isoformat())] if since else []
    return search(store, where, limit=limit)


def search_page(
    store: DBStore,
    filters: Sequence[Filter],
    order_by: Optional[str],
    limit: int,
    descending: bool,
    read: Reader[AnyRun],
) -> Tuple[List[AnyRun], int]:
    """Find runs as `search` does.

    Args:
        filters: The conditions.
        order_by: The name to sort by.
        limit: The largest number of runs.
        descending: Whether to sort from large to small.
        read: Reads the runs. It must return summaries if a filter or `order_by` needs them.

    Returns:
        The runs, and how many there would be without the limit.
    """
    if order_by is not None or not all(each.is_on_header() for each in filters):
        found = _search(store, filters, order_by, None, descending, read)
        return found[:limit], len(found)
    found = _search(store, filters, None, limit, descending, read)
    return found, len(found) if len(found) < limit else _count(store, filters)


def _search(
    store: DBStore,
    filters: Sequence[Filter],
    order_by: Optional[str],
    limit: Optional[int],
    descending: bool,
    read: Reader[AnyRun],
) -> List[AnyRun]:
    if limit is not None and limit < 1:
        raise InvalidValueError(f"The limit must be at least 1, not {limit}.")
    order = Name(order_by) if order_by is not None else None
    names = {name.text: name for name in [each.name for each in filters] + ([order] if order else [])}
    unseen = [name for name in names.values() if not name.is_field]
    found: List[AnyRun] = []
    for run in _candidates(store, filters, None if order else limit, read):
        unseen = [name for name in unseen if not name.values(run)]
        if all(each.is_met_by(run) for each in filters):
            found.append(run)
            if not order and len(found) == limit:
                return found
    check_names(store, unseen)
    return (sort_runs(found, order, descending) if order else found)[:limit]


def _count(store: DBStore, filters: Sequence[Filter]) -> int:
    """Count the runs that meet filters. For each filter, `is_on_header` must return True."""
    if not filters:
        return store.table.count_runs(fragments.RUN_LOG)
    runs = _candidates(store, filters, None, summarize_headers)
    return sum(all(each.is_met_by(run) for each in filters) for run in runs)


def _candidates(
    store: DBStore, filters: Sequence[Filter], limit: Optional[int], read: Reader[AnyRun]
) -> Iterator[AnyRun]:
    """Yield runs, newest first. The database leaves out some of those that do not meet the filters, for speed.

    A limit says how many runs to read first, if the caller may not need all of them.
    """
    texts = [text for each in filters for text in each.header_texts()]
    tags = {json.dumps(tag): Requirement(fragments.TAG, tag) for each in filters for tag in each.tags()}
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
        for batch in batches(run_ids, BATCH_SIZE):
            yield from read(store, batch)
        if limit is None or len(found) < limit:
            return
        seen.update(run_ids)
        limit *= 4


def check_names(store: DBStore, names: Sequence[Name]) -> None:
    """Check that each name is a parameter or metric of some run, unless there are no runs.

    Raises:
        UnknownNameError: If one is not.
    """
    if not names:
        return
    unseen, has_runs = list(names), False
    known: Set[str] = set()
    for run in _candidates(store, (), None, summarize):
        has_runs = True
        unseen = [name for name in unseen if not name.values(run)]
        known.update(run.params, run.metrics)
    if unseen and has_runs:
        name = unseen[0].text
        # A user may have misspelled the last part of a metric's name.
        short = [without_number(each).rpartition(".")[2] for each in known]
        raise UnknownNameError(
            f"No run has a parameter or metric '{name}'.{suggest(name, sorted({*short, *known, *FIELDS}))}"
        )

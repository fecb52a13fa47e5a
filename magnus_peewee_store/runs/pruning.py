"""Choose old runs, and delete runs."""

import time
from datetime import datetime, timedelta
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence

from magnus_peewee_store import fragments
from magnus_peewee_store.runs.conditions import AnyCondition, Condition
from magnus_peewee_store.runs.listing import BATCH_SIZE, batches, summarize
from magnus_peewee_store.runs.reading import has_ended
from magnus_peewee_store.runs.searching import search
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import utcnow

ONE_DAY = timedelta(days=1)


class Prunable(NamedTuple):
    """The runs that `prunable` chose, oldest first."""

    run_ids: List[str]
    """The runs that may be deleted."""
    running: List[str]
    """The runs that are old enough, but may still be running. They are kept."""


def prunable(
    store: DBStore,
    older_than: Optional[timedelta] = None,
    keep: Optional[int] = None,
    progress: Callable[[int], Any] = lambda runs: None,
    where: Sequence[AnyCondition] = (),
    keep_tags: Sequence[str] = (),
) -> Prunable:
    """Choose the runs that may be deleted: those that are older than an age and not among the newest.

    An unfinished run may still be running. It is not chosen while it has heartbeats. It is not chosen either while one
    of its rows is younger than `older_than`. If that is less than a day, a day counts.

    Args:
        older_than: The age. None chooses runs of any age.
        keep: How many of the newest runs are kept; None means 0.
        progress: Called after each batch with its number of runs.
        where: Conditions as in `search`. Runs that do not meet all of them are neither chosen nor counted by `keep`.
        keep_tags: Runs with one of these tags are not chosen.

    Raises:
        ConditionError: If a condition is not valid.
    """
    now = utcnow()
    found = dict(store.table.runs(fragments.RUN_LOG))  # If a run has two rows of its own, the older one counts.
    if where:
        matching = {run.run_id for run in search(store, where)}
        found = {run_id: started for run_id, started in found.items() if run_id in matching}
    kept_by_tag = {run.run_id for tag in keep_tags for run in search(store, [Condition("tag", "=", tag)])}
    old = [
        run_id
        for run_id, started in list(found.items())[keep or 0 :]
        if older_than is None or (isinstance(started, datetime) and now - started > older_than)
        if run_id not in kept_by_tag
    ]
    quiet_since = now - max(ONE_DAY, older_than or ONE_DAY)
    chosen = Prunable([], [])
    for batch in batches(old[::-1], BATCH_SIZE):
        ended = {row.run_id for row in store.table.read_runs(batch, fragments.RUN_LOG) if has_ended(row)}
        for run_id in batch:
            if run_id in ended or _is_quiet(store, run_id, quiet_since):
                chosen.run_ids.append(run_id)
            else:
                chosen.running.append(run_id)
        progress(len(batch))
    return chosen


def delete_runs(store: DBStore, run_ids: Sequence[str]) -> Iterator[int]:
    """Delete runs, each in one transaction. Pipelines can write in the pauses between two runs.

    This is a generator: nothing happens until you iterate over it.

    Args:
        run_ids: The whole ids.

    Yields:
        The number of rows of each run.
    """
    for run_id in run_ids:
        start = time.monotonic()
        is_finished = any(has_ended(row) for row in store.table.read_runs([run_id], fragments.RUN_LOG))
        count = store.table.delete(run_id, is_being_written=not is_finished)
        pause = time.monotonic() - start
        yield count
        # SQLite allows one writer at a time. A pause as long as the deletion lets others write.
        time.sleep(pause)


def _is_quiet(store: DBStore, run_id: str, since: datetime) -> bool:
    """Return True if an unfinished run has no recent heartbeats, and no rows created since a time."""
    _, newest = store.table.created_at_range(run_id, fragments.TYPES)
    [run] = summarize(store, [run_id])
    return run.is_stale is not False and (not isinstance(newest, datetime) or newest < since)

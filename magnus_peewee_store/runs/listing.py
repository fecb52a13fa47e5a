"""List and summarize runs."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Dict, Iterator, List, Optional, Sequence, TypeVar

from magnus import defaults
from magnus.datastore import RunLog

from magnus_peewee_store import fragments
from magnus_peewee_store.db.table import StoredRow
from magnus_peewee_store.exceptions import UnreadableRowError
from magnus_peewee_store.runs.reading import attempts_of, duration_of, steps_of, to_run
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import to_created_at

BATCH_SIZE = 200  # runs to read in one query

T = TypeVar("T")


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs shows about one run. None means unknown."""

    run_id: str
    status: str
    tag: Optional[str]
    started: Optional[datetime]
    """In UTC."""
    duration: Optional[float]
    """In seconds; until now, if the run has not ended."""
    steps_done: int
    steps_known: int
    """The steps that have begun."""
    failed_step: Optional[str]
    """The first failed step that contains no other failed step."""
    unreadable: List[str]
    """The type and key of each row that cannot be read."""


def list_runs(
    store: DBStore, status: str = "", tag: str = "", since: Optional[datetime] = None, limit: int = 20
) -> List[RunSummary]:
    """List runs, newest first.

    Args:
        store: The store.
        status: Only runs with this status.
        tag: Only runs with this tag.
        since: Only runs that started at this time or later. A time without a zone is local time.
        limit: The largest number of runs.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run", tag="nightly")
        >>> [run.status for run in runs.list_runs(store, tag="nightly")]
        ['CREATED']
    """
    wanted = {name: value for name, value in (("status", status), ("tag", tag)) if value}
    # The database selects first. `_matching` decides, because other software formats JSON in other ways.
    texts = [json.dumps(value) for value in wanted.values() if value.isascii()]
    row_limit = limit
    while True:
        found = store.table.runs(
            fragments.RUN_LOG, since=to_created_at(since) if since else None, containing=texts, limit=row_limit
        )
        run_ids = list(dict.fromkeys(run_id for run_id, _ in found))
        if wanted:
            run_ids = _matching(store, run_ids, wanted)
        if len(run_ids) >= limit or len(found) < row_limit:
            return summarize(store, run_ids[:limit])
        row_limit *= 4


def summarize(store: DBStore, run_ids: Sequence[str]) -> List[RunSummary]:
    """Return a summary of each run, in the order of the ids.

    Args:
        store: The store.
        run_ids: The whole ids.
    """
    summaries = []
    for batch in batches(run_ids, BATCH_SIZE):
        rows_of: Dict[str, List[StoredRow]] = {run_id: [] for run_id in batch}
        for row in store.table.read_runs(batch, fragments.RUN_LOG + fragments.STEP):
            rows_of[row.run_id].append(row)
        summaries += [_summarize_one(run_id, rows) for run_id, rows in rows_of.items()]
    return summaries


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in slices of `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _matching(store: DBStore, run_ids: Sequence[str], wanted: Dict[str, Any]) -> List[str]:
    headers: Dict[str, RunLog] = {}
    for batch in batches(run_ids, BATCH_SIZE):
        for row in store.table.read_runs(batch, fragments.RUN_LOG):
            try:
                headers[row.run_id] = fragments.parse(*row.fragment)
            except UnreadableRowError:
                continue
    return [
        run_id
        for run_id in run_ids
        if run_id in headers and all(getattr(headers[run_id], name) == value for name, value in wanted.items())
    ]


def _summarize_one(run_id: str, rows: Sequence[StoredRow]) -> RunSummary:
    header = next((row for row in rows if row.attribute_type in fragments.RUN_LOG), rows[0] if rows else None)
    run = to_run(run_id, [row.fragment for row in rows], header and header.created_at)
    steps = list(steps_of(run.run_log))
    unreadable_steps = [row for row in run.unreadable if row.attribute_type in fragments.STEP]
    failed = [step.internal_name for step in steps if step.status == defaults.FAIL]
    innermost = [name for name in failed if not any(other.startswith(f"{name}.") for other in failed)]
    return RunSummary(
        run_id=run_id,
        status=run.run_log.status,
        tag=run.run_log.tag or None,
        started=run.started,
        duration=duration_of(run.run_log.status, run.started, attempts_of(steps)),
        steps_done=sum(step.status == defaults.SUCCESS for step in steps),
        steps_known=len(steps) + len(unreadable_steps),
        failed_step=innermost[0] if innermost else None,
        unreadable=[f"{row.attribute_type} {row.attribute_key}" for row in run.unreadable],
    )

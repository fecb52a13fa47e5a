"""Copy runs from database to database. Each run is written atomically."""

from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from magnus_peewee_store import fragments
from magnus_peewee_store.db.backends import Backend
from magnus_peewee_store.db.rows import StoredRow
from magnus_peewee_store.exceptions import UnreadableRowError
from magnus_peewee_store.runs.listing import batches
from magnus_peewee_store.runs.outcomes import FAILED, REFUSALS, SKIPPED, UPDATED, WRITTEN, Outcome
from magnus_peewee_store.runs.reading import has_ended
from magnus_peewee_store.scrub import scrub
from magnus_peewee_store.store import DBStore

COPY_BATCH = 20  # how many runs to compare at a time, with all of their rows


def copy_runs(source: DBStore, target: DBStore, run_ids: Sequence[str]) -> Iterator[Outcome]:
    """Copy runs into another database, or bring them up to date there.

    Each run is written in one transaction. A run that is equal in both databases is skipped. Tags and notes are copied.
    Heartbeats are not, because no process works on the copy. Secrets in run configs are removed. Rows of the run that
    only the target has are deleted. If the target has a different run with the same id, that run is kept.

    This is a generator: nothing happens until you iterate over it.

    Args:
        source: The store to copy from.
        target: The store to copy to.
        run_ids: The whole ids.

    Yields:
        What happened to each run.

    Raises:
        peewee.PeeweeException: If a database cannot be read or written.
    """
    for batch in batches(run_ids, COPY_BATCH):
        wanted, present = _rows_to_copy(source, batch), _present_rows(target, batch)
        for run_id in batch:
            rows = wanted[run_id]
            if not rows:
                yield Outcome(run_id, FAILED, "it was deleted in the meantime")
            elif rows == present[run_id]:
                yield Outcome(run_id, SKIPPED)
            elif present[run_id] and _creation_of(rows) != _creation_of(present[run_id]):
                # magnus may generate an id twice. Two copies of the same run would have the same created_at.
                yield Outcome(run_id, SKIPPED, "skipped: the other database has another run with this id")
            else:
                yield _replace(target, rows, UPDATED if present[run_id] else WRITTEN)


def find_differing(
    source: DBStore, target: DBStore, run_ids: Sequence[str], progress: Callable[[int], Any] = lambda runs: None
) -> Iterator[str]:
    """Compare runs of two databases row by row. Heartbeats and secrets are ignored, because they are not copied.

    Args:
        source: The store that the runs were copied from.
        target: The store that the runs were copied to.
        run_ids: The whole ids.
        progress: Called after each batch with its number of runs.

    Yields:
        The ids of the runs that differ.
    """
    for batch in batches(run_ids, COPY_BATCH):
        wanted, present = _rows_to_copy(source, batch), _present_rows(target, batch)
        yield from (run_id for run_id in batch if wanted[run_id] != present[run_id])
        progress(len(batch))


def is_same_database(a: Backend, b: Backend) -> bool:
    """Return True if two connections have the same parameters, so that they lead to the same database."""
    return (a.database, a.schema, {**a.connect_params}) == (b.database, b.schema, {**b.connect_params})


def _rows_to_copy(source: DBStore, run_ids: Sequence[str]) -> Dict[str, List[StoredRow]]:
    """Return the rows of each run without heartbeats and secrets. The newest of duplicate rows counts."""
    rows_of: Dict[str, Dict[Tuple[str, str], StoredRow]] = {run_id: {} for run_id in run_ids}
    for row in source.table.read_runs(run_ids):
        if row.attribute_type not in fragments.HEARTBEAT and isinstance(row.attribute_value, str):
            key = (row.attribute_type, row.attribute_key)
            rows_of[row.run_id].pop(key, None)  # Otherwise the newest row would be at the position of the oldest.
            rows_of[row.run_id][key] = _scrub_row(row)
    return {run_id: list(rows.values()) for run_id, rows in rows_of.items()}


def _present_rows(target: DBStore, run_ids: Sequence[str]) -> Dict[str, List[StoredRow]]:
    """Return the rows of each run that the target has, without heartbeats."""
    rows_of: Dict[str, List[StoredRow]] = {run_id: [] for run_id in run_ids}
    for row in target.table.read_runs(run_ids):
        if row.attribute_type not in fragments.HEARTBEAT:
            rows_of[row.run_id].append(row)
    return rows_of


def _creation_of(rows: Sequence[StoredRow]) -> Any:
    """Return the created_at of a run's own row; None if it has none."""
    return next((row.created_at for row in rows if row.attribute_type in fragments.RUN_LOG), None)


def _replace(target: DBStore, rows: Sequence[StoredRow], status: str) -> Outcome:
    run_id = rows[0].run_id
    try:
        target.table.replace_run(rows, fragments.HEARTBEAT)
    except REFUSALS as error:
        return Outcome(run_id, FAILED, str(error).strip())
    is_finished = any(has_ended(row) for row in rows if row.attribute_type in fragments.RUN_LOG)
    return Outcome(run_id, status, "" if is_finished else "it has not ended, and was copied as it is now")


def _scrub_row(row: StoredRow) -> StoredRow:
    """Return a row without secrets. Only the run's own row can contain them."""
    if row.attribute_type not in fragments.RUN_LOG:
        return row
    try:
        run_log = fragments.parse(*row.fragment)
    except UnreadableRowError:
        return row
    clean = scrub(run_log.run_config)
    if clean == run_log.run_config:
        return row
    run_log.run_config = clean
    return row._replace(attribute_value=fragments.dump_header(run_log).attribute_value)

"""Look after a database: check it, choose old runs, delete runs and their data, create views for SQL clients."""

import shutil
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set

from magnus_peewee_store import fragments
from magnus_peewee_store.db import views
from magnus_peewee_store.db.table import BATCH_SIZE, StoredRow, batches
from magnus_peewee_store.db.views import View
from magnus_peewee_store.exceptions import UnreadableRowError
from magnus_peewee_store.runs.read import UnreadableRow, has_ended
from magnus_peewee_store.runs.search import AnyCondition, Condition, search
from magnus_peewee_store.runs.summaries import summarize
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import utcnow

ROWS_PER_QUERY = 1000


@dataclass(frozen=True)
class CheckReport:
    """What `check` found in a database."""

    database: str
    """The masked connection string."""
    product: str
    """The name and version of the database product."""
    size: int
    """The size of the table with its indexes, in bytes."""
    missing: List[str]
    """Descriptions of what `create_tables` would create."""
    widen_pk: str
    """The SQL that widens the column pk; empty unless half of its numbers are used."""
    rows: Dict[str, int]
    """The number of rows by attribute_type."""
    runs: int
    """The number of runs."""
    without_own_row: List[str]
    """The runs without a row of their own."""
    duplicates: Dict[str, int]
    """The number of duplicate rows by run."""
    unreadable: List[UnreadableRow]
    """The rows that cannot be read."""
    stale: List[str]
    """The unfinished runs that are stale or were interrupted. They do not make the database unhealthy."""

    @property
    def is_healthy(self) -> bool:
        """True if nothing needs attention."""
        return not (self.missing or self.widen_pk or self.duplicates or self.unreadable or self.without_own_row)


def check(store: DBStore, progress: Callable[[int], Any] = lambda rows: None) -> CheckReport:
    """Read the whole table, which must exist, and report what needs attention. Nothing is changed.

    Args:
        progress: Called after each batch with its number of rows.
    """
    table = store.table
    rows: Dict[str, int] = {}
    run_ids: Set[str] = set()
    with_header: Set[str] = set()
    unreadable: List[UnreadableRow] = []
    unfinished: List[str] = []
    for batch in table.scan(ROWS_PER_QUERY):
        for row in batch:
            rows[row.attribute_type] = rows.get(row.attribute_type, 0) + 1
            run_ids.add(row.run_id)
            if row.attribute_type in fragments.RUN_LOG:
                with_header.add(row.run_id)
                if not has_ended(row):
                    unfinished.append(row.run_id)
            problem = _find_problem(row)
            if problem:
                unreadable.append(UnreadableRow(*row[:3], problem))
        progress(len(batch))
    return CheckReport(
        database=table.database.masked_url,
        product=table.version_string(),
        size=table.size(),
        missing=table.missing(),
        widen_pk=table.widen_pk(),
        rows=rows,
        runs=len(run_ids),
        without_own_row=sorted(run_ids - with_header, key=str),  # Other software may have written NULL.
        duplicates=table.duplicates(),
        unreadable=unreadable,
        stale=[
            run.run_id for batch in batches(unfinished, BATCH_SIZE) for run in summarize(store, batch) if run.is_stale
        ],
    )


def _find_problem(row: StoredRow) -> str:
    """Return why a row cannot be read; empty if it can."""
    try:
        fragments.parse(*row.fragment)
    except UnreadableRowError as error:
        return str(error)
    return "" if isinstance(row.created_at, datetime) else "its created_at is not a time"


def find_catalogs(store: DBStore, run_ids: Sequence[str]) -> Dict[str, List[str]]:
    """Return the ids of runs by the location of their file-system catalog. Runs without such a catalog are left out.

    Args:
        run_ids: The whole ids.
    """
    found: Dict[str, List[str]] = {}
    for batch in batches(run_ids, BATCH_SIZE):
        for row in store.table.read_runs(batch, fragments.RUN_LOG):
            try:
                handler = fragments.parse(*row.fragment).run_config.get("catalog_handler")
            except UnreadableRowError:
                continue
            if isinstance(handler, dict) and handler.get("service_name") == "file-system":
                found.setdefault(str(handler.get("catalog_location")), []).append(row.run_id)
    return found


def run_folders(catalog: Path, run_ids: Iterable[str]) -> Dict[str, Path]:
    """Return the folders of runs that exist in a catalog, by the run's id. No folder is outside of the catalog."""
    names = (run_id for run_id in run_ids if run_id not in (".", "..") and Path(run_id).name == run_id)
    folders = {name: catalog / name for name in names}
    return {run_id: path for run_id, path in folders.items() if path.is_dir() and not path.is_symlink()}


def delete_folder(folder: Path) -> None:
    """Delete the folder of a run.

    Raises:
        OSError: If it cannot be deleted.
    """
    shutil.rmtree(folder)


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


VIEWS = (
    View("run_metrics", fragments.STEP, "step", "user_defined_metrics", "metric"),
    View("run_params", fragments.PARAMETER, "param"),
)


def create_views(store: DBStore) -> List[str]:
    """Create or replace the views `run_metrics` and `run_params` for SQL clients. The table must exist.

    `run_metrics` has the columns `run_id`, `step`, `metric`, `value` and `text`. `run_params` has `run_id`, `param`,
    `value` and `text`. `value` is the number, or NULL if the value is not a number. `text` is the value as text.

    Returns:
        The names of the views.
    """
    return views.create_views(store.table.database, VIEWS)


def drop_views(store: DBStore) -> List[str]:
    """Drop the views of `create_views`, and return the names of those that existed."""
    return views.drop_views(store.table.database, VIEWS)

"""Look after a database: check it, choose old runs, delete runs and their data."""

import os
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from magnus import defaults
from magnus.datastore import StepLog

from magnus_peewee_store import fragments
from magnus_peewee_store.db.schema import schema_of
from magnus_peewee_store.db.whole_runs import StoredRow, batches
from magnus_peewee_store.exceptions import RunIsReusedError, UnreadableRowError
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.runs.lineage import find_reused, originals_of, read_originals
from magnus_peewee_store.runs.read import UnreadableRow, has_ended, parse_for_display
from magnus_peewee_store.runs.search import AnyCondition, Condition, make_filters, search_page
from magnus_peewee_store.runs.summaries import RunSummary, iter_summaries, summarize
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import from_created_at, utcnow

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
    without_original: Dict[str, str]
    """The re-runs that lack the results of reused steps, with the id of the original run, which is gone. They do not
    make the database unhealthy."""

    @property
    def is_healthy(self) -> bool:
        """True if nothing needs attention."""
        return not (self.missing or self.widen_pk or self.duplicates or self.unreadable or self.without_own_row)


def check(store: DBStore, progress: Callable[[int], Any] = lambda rows: None) -> CheckReport:
    """Read the whole table, which must exist, and report what needs attention. Nothing is changed.

    Args:
        progress: Called after each batch with its number of rows.

    Raises:
        CorruptFileError: If it is an SQLite file with a damaged page, whether or not a row lies there.
    """
    database, schema = store.database, schema_of(store.database)
    database.retry(database.check_file)
    rows: Dict[str, int] = {}
    run_ids: Set[str] = set()
    with_header: Set[str] = set()
    unreadable: List[UnreadableRow] = []
    unfinished: List[str] = []
    for batch in store.table.scan(ROWS_PER_QUERY):
        for row in batch:
            rows[row.attribute_type] = rows.get(row.attribute_type, 0) + 1
            if row.attribute_type not in fragments.PROBE:
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
        database=database.masked_url,
        product=database.retry(database.version_string),
        size=database.retry(schema.size),
        missing=database.retry(schema.missing),
        widen_pk=database.retry(schema.widen_pk_sql),
        rows=rows,
        runs=len(run_ids),
        without_own_row=sorted(run_ids - with_header, key=str),  # Other software may have written NULL.
        duplicates=database.retry(schema.duplicates),
        unreadable=unreadable,
        stale=[run.run_id for run in summarize(store, unfinished, with_values=False) if run.is_stale],
        without_original={
            run_id: original for run_id, original in read_originals(store).items() if original not in run_ids
        },
    )


def _find_problem(row: StoredRow) -> str:
    """Return why a row cannot be read; empty if it can."""
    try:
        parse_for_display(*row.fragment)
    except UnreadableRowError as error:
        return str(error)
    return "" if isinstance(row.created_at, datetime) else "its created_at is not a time"


def run_folders(catalog: Path, run_ids: Iterable[str]) -> Dict[str, Path]:
    """Return the folders of runs that exist in a catalog, by the run's id. No folder is outside of the catalog."""
    names = (run_id for run_id in run_ids if run_id not in (".", "..") and Path(run_id).name == run_id)
    folders = {name: catalog / name for name in names}
    return {name: path for name, path in folders.items() if os.path.isdir(path) and not os.path.islink(path)}


def deletable_folders(store: DBStore, catalog: Path, run_ids: Iterable[str]) -> Tuple[Dict[str, Path], List[str]]:
    """Return the folders in a file-system catalog that may be deleted with their runs.

    The run's row must name this catalog. Each file in the folder must be one that the run, or a run that it continues,
    recorded. Otherwise, a run with the name of any folder could be written to have that folder deleted.

    Returns:
        The folders by the id of the run, and the reason for each folder that stays.
    """
    folders, stays = run_folders(catalog, run_ids), []
    locations: Dict[str, Any] = {}
    originals: Dict[str, str] = {}
    recorded: Dict[str, Set[Tuple[str, ...]]] = {}  # the paths in the run's folder
    unread = [*folders]
    while unread:
        recorded.update({run_id: set() for run_id in unread})
        for row in store.table.read_runs(unread, fragments.RUN_LOG + fragments.STEP):
            log = fragments.parse_or_none(*row.fragment)
            if isinstance(log, StepLog):
                put = (Path(data.catalog_relative_path) for data in log.data_catalog if data.stage == "put")
                recorded[row.run_id].update(path.parts[1:] for path in put)
            elif log:
                locations[row.run_id] = log.run_config.get("catalog_handler")
                originals[row.run_id] = log.original_run_id or ""
        unread = [each for each in {originals.get(run_id, "") for run_id in unread} if each and each not in recorded]
    for run_id, folder in [*folders.items()]:
        known = set().union(*(recorded.get(each, ()) for each in (run_id, *originals_of(run_id, originals))))
        files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
        reason = "" if _names_catalog(locations.get(run_id), catalog) else "The run used another catalog."
        for file in files if not reason else ():
            if file.relative_to(folder).parts not in known:
                reason = f"The run did not record the file '{file.relative_to(folder)}'."
                break
        if reason:
            stays.append(f"The folder {folders.pop(run_id)} stays. {reason}")
    return folders, stays


def _names_catalog(handler: Any, catalog: Path) -> bool:
    """Return True if a run's file-system catalog is this one, or has a relative path that this one's path ends with."""
    if not isinstance(handler, dict) or handler.get("service_name") != "file-system":
        return False
    location = Path(str(handler.get("catalog_location") or defaults.CATALOG_LOCATION_FOLDER))
    if location.is_absolute():
        return os.path.realpath(location) == os.path.realpath(catalog)
    parts = Path(os.path.normpath(location)).parts
    return bool(parts) and Path(os.path.abspath(catalog)).parts[-len(parts) :] == parts


ONE_DAY = timedelta(days=1)


class Prunable(NamedTuple):
    """The runs that `prunable` chose, oldest first."""

    run_ids: List[str]
    """The runs that may be deleted."""
    running: List[str]
    """The runs that are old enough, but may still be running. They are kept."""
    reused: Dict[str, List[str]]
    """The runs that are kept because re-runs that are kept take results from them, with the ids of these re-runs."""


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
    A run is not chosen either if a re-run that is not chosen takes results from it.

    Args:
        older_than: The age. None chooses runs of any age.
        keep: How many of the newest runs are kept; None means 0.
        progress: Called after each batch with its number of runs.
        where: Conditions as in `search`. Runs that do not meet all of them are neither chosen nor counted by `keep`.
        keep_tags: Runs with one of these tags are not chosen.

    Raises:
        ConditionError: If a condition is not valid.
    """
    found = dict(store.table.runs(fragments.RUN_LOG))  # If a run has two rows of its own, the older one counts.
    if where:
        matching, _ = search_page(store, make_filters(where), None, None, False, with_values=False)
        matching_ids = {run.run_id for run in matching}
        found = {run_id: started for run_id, started in found.items() if run_id in matching_ids}
    rest = list(found.items())[keep or 0 :]
    old = [run_id for run_id, started in rest if _is_old(from_created_at(started), older_than)]
    chosen: List[str] = []
    running: List[str] = []
    for batch in batches(old[::-1]):
        decided = decide(store, batch, older_than, (), keep_tags)  # The search has applied `where`.
        chosen.extend(decided.run_ids)
        running.extend(decided.running)
        progress(len(batch))
    reused = find_reused(read_originals(store), chosen)
    return Prunable([run_id for run_id in chosen if run_id not in reused], running, reused)


def decide(
    store: DBStore,
    run_ids: Sequence[str],
    older_than: Optional[timedelta],
    where: Sequence[AnyCondition],
    keep_tags: Sequence[str],
) -> Prunable:
    """Decide as `prunable` does, for some runs as they are now, without regard to their number and their re-runs."""
    filters = make_filters(where)
    kept = make_filters([Condition("tag", "=", tag) for tag in keep_tags])
    chosen = Prunable([], [], {})
    is_on_header = all(each.is_on_header() for each in filters)
    for run in iter_summaries(store, run_ids, with_values=not is_on_header, with_steps=not is_on_header):
        is_wanted = _is_old(run.started, older_than) and all(each.is_met_by(run) for each in filters)
        if not is_wanted or any(each.is_met_by(run) for each in kept):
            continue
        if run.status in ENDED or _is_quiet(store, run, utcnow() - max(ONE_DAY, older_than or ONE_DAY)):
            chosen.run_ids.append(run.run_id)
        else:
            chosen.running.append(run.run_id)
    return chosen


def _is_old(started: Optional[datetime], older_than: Optional[timedelta]) -> bool:
    return older_than is None or (started is not None and datetime.now(timezone.utc) - started > older_than)


def delete_runs(store: DBStore, run_ids: Sequence[str], should_force: bool = False) -> Iterator[int]:
    """Delete runs, each in one transaction. Pipelines can write in the pauses between two runs.

    This is a generator: nothing happens until you iterate over it.

    Args:
        run_ids: The whole ids.
        should_force: Whether to delete runs that other runs take results from.

    Yields:
        The number of rows of each run.

    Raises:
        RunIsReusedError: If a re-run that is not among these runs takes results from one of them. Nothing is deleted.
    """
    if not should_force:
        check_reuse(store, run_ids)
    for run_id in run_ids:
        yield _delete_run(store, run_id)


def delete_unless_kept(
    store: DBStore, run_ids: Sequence[str], may_delete: Callable[[str], bool], should_force: bool = False
) -> Iterator[Tuple[str, bool]]:
    """Delete runs, but keep those that may not be deleted any more, and the runs that these take results from.

    `may_delete` is called immediately before each deletion. Yield the id of each run, and whether it was deleted.
    """
    originals = {} if should_force else read_originals(store)
    held = set(find_reused(originals, run_ids))
    # A re-run goes before the runs that it takes results from, because it may still turn out to be kept.
    last = set(originals.values())
    ordered = [run_id for run_id in run_ids if run_id not in last]
    ordered += sorted(last.intersection(run_ids), key=lambda run_id: -len([*originals_of(run_id, originals)]))
    for run_id in ordered:
        is_kept = run_id in held or not may_delete(run_id)
        if is_kept:
            held.update(originals_of(run_id, originals))
        else:
            _delete_run(store, run_id)
        yield run_id, not is_kept


def _delete_run(store: DBStore, run_id: str) -> int:
    start = time.monotonic()
    is_finished = any(has_ended(row) for row in store.table.read_runs([run_id], fragments.RUN_LOG))
    count = store.table.delete(run_id, is_being_written=not is_finished)
    if not store.database.has_concurrent_writers:
        time.sleep(time.monotonic() - start)  # A pause as long as the deletion lets others write.
    return count


def check_reuse(store: DBStore, run_ids: Sequence[str]) -> None:
    """Raise a RunIsReusedError if other runs take results from these runs."""
    reused = find_reused(read_originals(store), run_ids)
    if reused:
        parts = (f"{', '.join(reruns)} would lose what {run_id} has logged" for run_id, reruns in reused.items())
        raise RunIsReusedError(
            f"Nothing was deleted. Re-runs take the results of their reused steps: {'; '.join(parts)}. "
            "Delete the re-runs, too, or use --force (should_force)."
        )


def _is_quiet(store: DBStore, run: RunSummary, since: datetime) -> bool:
    """Return True if an unfinished run has no recent heartbeats, and no rows created since a time."""
    _, newest = store.table.created_at_range(run.run_id, fragments.TYPES)
    return run.is_stale is not False and (not isinstance(newest, datetime) or newest < since)

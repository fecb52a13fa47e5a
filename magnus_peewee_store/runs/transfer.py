"""Move runs: export them to files, import them, and copy them to another database. Each run is written atomically."""

import contextlib
import json
import os
import uuid
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import peewee
from magnus.datastore import BranchLog, RunLog, StepLog

from magnus_peewee_store import fragments
from magnus_peewee_store.db.whole_runs import StoredRow, batches
from magnus_peewee_store.exceptions import ConfigurationError, PrivilegeError, UnreadableRowError
from magnus_peewee_store.fragments import UNKNOWN
from magnus_peewee_store.logs import attempts_of, steps_of, time_span
from magnus_peewee_store.origin import parse_origin
from magnus_peewee_store.runs.lineage import add_originals
from magnus_peewee_store.runs.merging import Merge, mask, merge, overwrite
from magnus_peewee_store.runs.read import has_ended, read_exactly
from magnus_peewee_store.store import STARTED_BY, DBStore, RunNotFoundError
from magnus_peewee_store.times import TICK, to_created_at

# What a database raises for rows that it cannot store. A driver raises ValueError for NUL.
REFUSALS = (peewee.DataError, peewee.IntegrityError, ValueError)
RUN_LOG_CHUNK = "RunLog.json"
META = ".meta"  # the ending of the file beside RUN_ID.json that holds the run's tags and notes
PROBE_RUN = "magnus-peewee-store"  # the run id of a row that tells whether two databases are one
COPY_BATCH = 20  # how many runs to compare at a time, with all of their rows

Decide = Callable[[Sequence[StoredRow], Sequence[StoredRow]], Merge]

WRITTEN, INCOMPLETE, UPDATED, SKIPPED, FAILED = "written", "incomplete", "updated", "skipped", "failed"


class Outcome(NamedTuple):
    """What happened to one run, or to one file that should contain a run."""

    name: str
    """The id of the run, or the path of the file."""
    status: str
    """One of these:

    - `written`
    - `incomplete`: it was written without rows that cannot be read.
    - `updated`: it was there before, and has been brought up to date.
    - `skipped`: it was there before, and was not changed.
    - `failed`
    """
    message: str = ""
    """Why it failed or is incomplete, or what else to know."""


def _with_originals(
    store: DBStore, run_ids: Iterable[str], move: Callable[[Sequence[str]], Iterator[Outcome]]
) -> Iterator[Outcome]:
    """Move runs, and the runs that they take results from. The outcomes of the latter say why."""
    reasons = add_originals(store, run_ids)
    for outcome in move([*reasons]):
        message = "; ".join(filter(None, [reasons[outcome.name], outcome.message]))
        yield outcome._replace(message=message)


def export_runs(store: DBStore, run_ids: Iterable[str], folder: Path) -> Iterator[Outcome]:
    """Write runs as files that magnus' `file-system` store reads. An existing file of a run is replaced.

    The tags and notes of a run are in a file beside it, `RUN_ID.meta`. `import_runs` reads this file, too.

    The original runs whose results a re-run reuses are written, too. Their outcomes say so.

    This is a generator: nothing happens until you iterate over it.

    Args:
        run_ids: The whole ids.
        folder: The folder. It is created if it is missing.

    Yields:
        What happened to each run. Rows that cannot be read are left out and reported.

    Raises:
        OSError: If the folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    yield from _with_originals(store, run_ids, partial(_export, store, folder))


def _export(store: DBStore, folder: Path, run_ids: Sequence[str]) -> Iterator[Outcome]:
    for run_id in run_ids:
        if not _can_name_a_file(run_id):
            yield Outcome(run_id, FAILED, "its id cannot be the name of a file")
            continue
        try:
            run = read_exactly(store, run_id)
        except RunNotFoundError as error:
            yield Outcome(run_id, FAILED, str(error))
            continue
        problem = "; ".join(map(str, run.unreadable))
        if run.run_log.status == UNKNOWN:
            yield Outcome(run_id, FAILED, problem or "it has no row of its own")
            continue
        try:
            _export_meta(store, run_id, folder / _file_name(f"{run_id}{META}"))
            # magnus' own store writes this format.
            write_atomically(folder / _file_name(f"{run_id}.json"), json.dumps(run.run_log.model_dump(), indent=4))
        except OSError as error:
            yield Outcome(run_id, FAILED, f"{error.strerror} ({error.filename})")
            continue
        yield Outcome(run_id, INCOMPLETE if problem else WRITTEN, problem)


def _export_meta(store: DBStore, run_id: str, path: Path) -> None:
    values: Dict[str, Dict[str, Any]] = {}
    for row in store.table.read(run_id, fragments.META):
        with contextlib.suppress(UnreadableRowError):
            values.setdefault(row[0], {})[row[1]] = fragments.parse(*row)
    if values:
        write_atomically(path, json.dumps(values, indent=4))
    else:
        path.unlink(missing_ok=True)


def _load_meta(path: Path) -> Tuple[List[fragments.Fragment], str]:
    """Return the rows that `_export_meta` wrote, and why they cannot be read."""
    try:
        values = _load(path) if path.is_file() else {}
        rows = [
            fragments.Fragment(attribute_type, key, json.dumps(value))
            for attribute_type in fragments.META
            for key, value in dict(values.get(attribute_type, {})).items()
        ]
    except OSError as error:
        return [], f"{path.name}: {error.strerror}"
    except fragments.PARSE_ERRORS as error:
        return [], f"{path.name}: {fragments.explain(error)}"
    return rows, ""


def write_atomically(path: Path, text: str) -> None:
    """Write a file atomically and durably, even if several processes write into one folder. May raise OSError."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def find_run_logs(path: Path) -> List[Path]:
    """Return the files and folders, one per run, that `import_runs` can import.

    Args:
        path: A file with a run log; the folder of a `file-system` or `chunked-fs` store; or the folder of one run of a
            `chunked-fs` store.

    Raises:
        OSError: If the path does not exist or contains no run log.
    """
    if not path.is_dir():
        path.stat()
        return [path]
    if _is_chunked(path):
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix == ".json" or _is_chunked(each))
    if not found:
        raise FileNotFoundError(f"There are no run logs in {path}: neither RUN_ID.json nor RUN_ID/{RUN_LOG_CHUNK}")
    return found


def import_runs(store: DBStore, paths: Iterable[Path]) -> Iterator[Outcome]:
    """Write runs from files into the database. A run that the database already has is skipped.

    An imported run gets the time of its first attempt. This is a generator: nothing happens until you iterate over it.

    Args:
        paths: The paths that `find_run_logs` returned.

    Yields:
        What happened to each path.

    Raises:
        peewee.PeeweeException: If the database cannot be written to.
    """
    for path in paths:
        try:
            is_chunked = path.is_dir()
            run_log = _read_chunks(path) if is_chunked else RunLog(**_load(path))
            file = path / RUN_LOG_CHUNK if is_chunked else path
            meta, problem = ([], "") if is_chunked else _load_meta(path.with_suffix(META))
            rows = _rows_of(run_log, meta, datetime.fromtimestamp(file.stat().st_mtime, timezone.utc))
        except OSError as error:
            yield Outcome(str(path), FAILED, f"{error.strerror} ({error.filename})")
        except fragments.PARSE_ERRORS as error:
            yield Outcome(str(path), FAILED, fragments.explain(error))
        else:
            outcome = _insert(store, rows, str(path))
            is_incomplete = problem and outcome.status == WRITTEN
            yield outcome._replace(status=INCOMPLETE, message=problem) if is_incomplete else outcome


def _insert(store: DBStore, rows: Sequence[StoredRow], name: str) -> Outcome:
    try:
        return Outcome(name, WRITTEN if store.table.insert_run(rows) else SKIPPED)
    except REFUSALS as error:
        return Outcome(name, FAILED, str(error).strip())


def _rows_of(run_log: RunLog, meta: Sequence[fragments.Fragment], modified: datetime) -> List[StoredRow]:
    """Return the rows of an imported run.

    Their created_at starts at the time of the run's first attempt. If no attempt has a time, it starts at `modified`.
    """
    if not run_log.run_id:
        raise ValueError("its run_id is empty")
    utc_offset = parse_origin(run_log.run_config.get(STARTED_BY)).utc_offset
    span = time_span(attempts_of(steps_of(run_log)), utc_offset)
    start = to_created_at(span[0] if span else modified)
    return [
        StoredRow(run_log.run_id, *fragment, start + number * TICK)
        for number, fragment in enumerate([*fragments.dump_run_log(run_log), *meta])
    ]


def _can_name_a_file(run_id: str) -> bool:
    name = f"{run_id}.json"
    return bool(run_id) and Path(name).name == name and not any(character in run_id for character in "\0\\")


def _file_name(name: str) -> str:
    """Return a name as bytes of UTF-8 if the encoding of file names lacks one of its characters."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return os.fsdecode(name.encode())
    return name


def _is_chunked(path: Path) -> bool:
    return (path / RUN_LOG_CHUNK).is_file()


def _load(path: Path) -> Dict[str, Any]:
    if path.exists() and not path.is_file():  # Reading a FIFO would wait for ever.
        raise ValueError("it is not a regular file")
    loaded = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, dict):
        raise ValueError("it is not a JSON object")
    return loaded


def _read_chunks(folder: Path) -> RunLog:
    """Read a run of a `chunked-fs` store. magnus itself cannot read it if the name of a branch contains a dot."""
    run_log = RunLog(**_load(folder / RUN_LOG_CHUNK))
    rows = fragments.dump_run_log(run_log)
    for path in sorted([*folder.glob("StepLog-*"), *folder.glob("BranchLog-*")], key=_creation_time):
        loaded = _load(path)
        is_step = path.name.startswith("StepLog-")
        rows += fragments.dump_step(StepLog(**loaded)) if is_step else fragments.dump_branch(BranchLog(**loaded))
    for path in sorted(folder.glob("Parameter-*")):
        rows += fragments.dump_parameters(_load(path))
    assembled = fragments.to_run_log(rows)
    assert assembled  # noqa: S101 - there is a header
    return assembled


def _creation_time(path: Path) -> int:
    """Return when magnus first wrote a chunk. It is part of the file's name."""
    timestamp = path.stem.rpartition("-")[2]
    if not timestamp.isdigit():
        raise ValueError(f"the name of its file {path.name} does not end in a timestamp")
    return int(timestamp)


def copy_runs(
    source: DBStore, target: DBStore, run_ids: Sequence[str], should_overwrite: bool = False
) -> Iterator[Outcome]:
    """Copy runs into another database, or bring them up to date there.

    A copy only adds, and only moves forward: what is newer in the target stays, and so do rows that only the target
    has. Each run is written in one transaction. Secrets in run configs are removed. If the target has a different run
    with the same id, that run is kept.

    The original runs whose results a re-run reuses are copied, too. Their outcomes say so.

    This is a generator: nothing happens until you iterate over it.

    Args:
        source: The store to copy from.
        target: The store to copy to.
        run_ids: The whole ids.
        should_overwrite: Whether to make the runs in the target equal to the source, even if they are newer there.

    Yields:
        What happened to each run.

    Raises:
        ConfigurationError: If both stores use the same database.
        peewee.PeeweeException: If a database cannot be read or written.
    """
    if is_same_database(source, target):
        raise ConfigurationError("The database to copy to is the one that contains the runs.")
    decide = overwrite if should_overwrite else merge
    yield from _with_originals(source, run_ids, partial(_copy_all, source, target, decide))


def _copy_all(source: DBStore, target: DBStore, decide: Decide, run_ids: Sequence[str]) -> Iterator[Outcome]:
    for run_id, wanted, present in _both_sides(source, target, run_ids):
        if wanted:
            yield _copy(target, wanted, present, decide)
        else:
            yield Outcome(run_id, FAILED, "it was deleted in the meantime")


def find_differing(
    source: DBStore, target: DBStore, run_ids: Sequence[str], progress: Callable[[int], Any] = lambda runs: None
) -> Iterator[str]:
    """Yield the ids of the runs that the target has only in part: neither all that the source has, nor something newer.

    `progress` is called with 1 after each run.
    """
    for run_id, wanted, present in _both_sides(source, target, run_ids):
        found = merge(wanted, present)
        if found.write or found.conflicts or found.is_another_run:
            yield run_id
        progress(1)


def is_same_database(source: DBStore, target: DBStore) -> bool:
    """Return True if two stores use the same database, whatever names their connection strings have for it.

    A row that is written through the target, and then seen through the source, tells. It is deleted if the role may.
    """
    a, b = source.database, target.database
    if isinstance(a, peewee.SqliteDatabase) or isinstance(b, peewee.SqliteDatabase):
        are_files = all(isinstance(each, peewee.SqliteDatabase) and os.path.exists(each.database) for each in (a, b))
        return a is b or (are_files and os.path.samefile(a.database, b.database))
    token = uuid.uuid4().hex
    target.table.upsert(PROBE_RUN, [(fragments.PROBE[0], token, "true")])
    try:
        return source.table.has(PROBE_RUN, fragments.PROBE, token)
    finally:
        with contextlib.suppress(PrivilegeError):
            target.table.change_run(PROBE_RUN, lambda rows: ([], [row for row in rows if row.attribute_key == token]))


def _both_sides(
    source: DBStore, target: DBStore, run_ids: Sequence[str]
) -> Iterator[Tuple[str, List[StoredRow], List[StoredRow]]]:
    """Yield the id of each run, its rows in the source without secrets, and its rows in the target."""
    for batch in batches(run_ids, COPY_BATCH):
        wanted, present = _rows_by_run(source, batch), _rows_by_run(target, batch)
        for run_id in batch:
            texts = [row for row in wanted[run_id] if isinstance(row.attribute_value, str)]
            yield run_id, [*map(mask, texts)], present[run_id]


def _rows_by_run(store: DBStore, run_ids: Sequence[str]) -> Dict[str, List[StoredRow]]:
    rows_of: Dict[str, List[StoredRow]] = {run_id: [] for run_id in run_ids}
    for row in store.table.read_runs(run_ids):
        rows_of[row.run_id].append(row)
    return rows_of


def _copy(target: DBStore, rows: Sequence[StoredRow], present: Sequence[StoredRow], decide: Decide) -> Outcome:
    run_id, found = rows[0].run_id, decide(rows, present)
    is_written = bool(found.write or found.delete)

    def change(stored: List[StoredRow]) -> Any:
        nonlocal found, present
        present, found = stored, decide(rows, stored)
        return found.write, found.delete

    if is_written:
        try:
            target.table.change_run(run_id, change)
        except REFUSALS as error:
            return Outcome(run_id, FAILED, str(error).strip())
        except peewee.PeeweeException as error:
            if "://" not in str(error):
                error.args = (f"Cannot write to {target.database.masked_url}: {error}",)
            raise
    if found.is_another_run:
        # magnus may generate an id twice. Two copies of the same run would have the same created_at.
        return Outcome(run_id, SKIPPED, "skipped: the other database has another run with this id")
    if found.conflicts:
        names = ", ".join(f"{row.attribute_type} {row.attribute_key}" for row in found.conflicts)
        message = f"neither side is newer, so these rows stay: {names}. To replace: copy {run_id} --overwrite"
        return Outcome(run_id, FAILED, message)
    if not is_written:
        return Outcome(run_id, SKIPPED)
    is_finished = any(has_ended(row) for row in rows if row.attribute_type in fragments.RUN_LOG)
    message = "" if is_finished else "it has not ended, and was copied as it is now"
    return Outcome(run_id, UPDATED if present else WRITTEN, message)

"""Move runs: export them to files, import them, and copy them to another database. Each run is written atomically."""

import contextlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import peewee
from magnus.datastore import BranchLog, RunLog, StepLog

from magnus_peewee_store import fragments
from magnus_peewee_store.db.base import Backend
from magnus_peewee_store.db.table import StoredRow, batches
from magnus_peewee_store.exceptions import UnreadableRowError
from magnus_peewee_store.fragments import UNKNOWN
from magnus_peewee_store.logs import attempts_of, steps_of, time_span
from magnus_peewee_store.origin import parse_origin
from magnus_peewee_store.runs.read import has_ended, read_exactly
from magnus_peewee_store.scrub import scrub
from magnus_peewee_store.store import STARTED_BY, DBStore, RunNotFoundError
from magnus_peewee_store.times import TICK, to_created_at

# What a database raises for rows that it cannot store. A driver raises ValueError for NUL.
REFUSALS = (peewee.DataError, peewee.IntegrityError, ValueError)
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


RUN_LOG_CHUNK = "RunLog.json"


def export_runs(store: DBStore, run_ids: Iterable[str], folder: Path) -> Iterator[Outcome]:
    """Write runs as files that magnus' `file-system` store reads. An existing file of a run is replaced.

    This is a generator: nothing happens until you iterate over it.

    Args:
        run_ids: The whole ids.
        folder: The folder. It is created if it is missing.

    Yields:
        What happened to each run. Rows that cannot be read are left out and reported.

    Raises:
        OSError: If the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
        # magnus' own store writes this format.
        write_atomically(folder / f"{run_id}.json", json.dumps(run.run_log.model_dump(), indent=4))
        yield Outcome(run_id, INCOMPLETE if problem else WRITTEN, problem)


def write_atomically(path: Path, text: str) -> None:
    """Write a file atomically.

    Raises:
        OSError: If the file cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
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
            rows = _rows_of(run_log, datetime.fromtimestamp(file.stat().st_mtime, timezone.utc))
        except OSError as error:
            yield Outcome(str(path), FAILED, f"{error.strerror} ({error.filename})")
        except fragments.PARSE_ERRORS as error:
            yield Outcome(str(path), FAILED, fragments.explain(error))
        else:
            yield _insert(store, rows, str(path))


def _insert(store: DBStore, rows: Sequence[StoredRow], name: str) -> Outcome:
    try:
        return Outcome(name, WRITTEN if store.table.insert_run(rows) else SKIPPED)
    except REFUSALS as error:
        return Outcome(name, FAILED, str(error).strip())


def _rows_of(run_log: RunLog, modified: datetime) -> List[StoredRow]:
    """Return the rows of an imported run.

    Their created_at starts at the time of the run's first attempt. If no attempt has a time, it starts at `modified`.
    """
    if not run_log.run_id:
        raise ValueError("its run_id is empty")
    run_log.run_config = scrub(run_log.run_config)
    utc_offset = parse_origin(run_log.run_config.get(STARTED_BY)).utc_offset
    span = time_span(attempts_of(steps_of(run_log)), utc_offset)
    start = to_created_at(span[0] if span else modified)
    return [
        StoredRow(run_log.run_id, *fragment, start + number * TICK)
        for number, fragment in enumerate(fragments.dump_run_log(run_log))
    ]


def _can_name_a_file(run_id: str) -> bool:
    name = f"{run_id}.json"
    return bool(run_id) and Path(name).name == name and not any(character in run_id for character in "\0\\")


def _is_chunked(path: Path) -> bool:
    return (path / RUN_LOG_CHUNK).is_file()


def _load(path: Path) -> Dict[str, Any]:
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

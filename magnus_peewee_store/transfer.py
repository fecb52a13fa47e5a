"""Runs from one place to another: into files and back, and from database to database. Each whole, or not at all."""

import contextlib
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence

import peewee
from magnus import exceptions
from magnus.datastore import BranchLog, RunLog, StepLog

from magnus_peewee_store import fragments
from magnus_peewee_store.databases import ManagedDatabase
from magnus_peewee_store.db import StoredRow
from magnus_peewee_store.runs import UNKNOWN, has_ended, local_time, read_run, steps_of, without_secrets
from magnus_peewee_store.store import DBStore

RUN_LOG_CHUNK = "RunLog.json"


class Outcome(NamedTuple):
    """What became of one run, or of the file that was to have one."""

    name: str
    done: bool
    """Whether it was written; if not, and there is no problem, it was there before."""
    problem: str = ""
    note: str = ""


def export_runs(store: DBStore, run_ids: Iterable[str], folder: Path) -> Iterator[Outcome]:
    """Write runs as files that magnus' own `file-system` store reads. A file of one's name is written anew.

    Args:
        store: The store.
        run_ids: The runs.
        folder: The folder, which is made as needed.

    Yields:
        What became of each run. One with rows that cannot be read is written without them.

    Raises:
        OSError: If the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for run_id in run_ids:
        if not run_id or "\0" in run_id or Path(f"{run_id}.json").name != f"{run_id}.json" or "\\" in run_id:
            yield Outcome(run_id, False, "its id cannot be the name of a file")
            continue
        try:
            run = read_run(store, run_id, shortened=False)
        except exceptions.RunLogNotFoundError as error:
            yield Outcome(run_id, False, error.message)
            continue
        problem = "; ".join(f"{each.attribute_type} {each.attribute_key}: {each.reason}" for each in run.unreadable)
        if run.run_log.status == UNKNOWN:
            yield Outcome(run_id, False, problem or "it has no row of its own")
            continue
        # As magnus' own store does.
        write_whole(folder / f"{run_id}.json", json.dumps(run.run_log.model_dump(), indent=4))
        yield Outcome(run_id, True, problem)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it.

    Args:
        path: The file.
        text: What is to stand in it.

    Raises:
        OSError: If it cannot be written.
    """
    unfinished = path.with_name(f".{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()


def find_run_logs(path: Path) -> List[Path]:
    """Find what `import_runs` can import.

    Args:
        path: A file of a run log; the folder of a `file-system` or of a `chunked-fs` store, or one of its runs'.

    Returns:
        The files and folders, each of one run.

    Raises:
        OSError: If there is no such file or folder, or nothing in it.
    """
    if not path.is_dir():
        path.stat()
        return [path]
    if _is_chunked(path):
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix == ".json" or _is_chunked(each))
    if not found:
        raise FileNotFoundError(f"There are no run logs in {path}: neither RUN_ID.json nor RUN_ID/RunLog.json")
    return found


def import_runs(store: DBStore, paths: Iterable[Path]) -> Iterator[Outcome]:
    """Write runs from files into the database, with the time of their first attempt, each unless it is there.

    Args:
        store: The store.
        paths: What `find_run_logs` found.

    Yields:
        What became of each.

    Raises:
        peewee.PeeweeException: If the database cannot be written to.
    """
    for path in paths:
        try:
            chunked = path.is_dir()
            run_log = _read_chunks(path) if chunked else RunLog(**_load(path))
            changed = path / RUN_LOG_CHUNK if chunked else path
            rows = _rows_of(run_log, datetime.fromtimestamp(changed.stat().st_mtime, timezone.utc))
        except OSError as error:
            yield Outcome(str(path), False, f"{error.strerror} ({error.filename})")
        except fragments.UNREADABLE as error:
            yield Outcome(str(path), False, fragments.explain(error))
        else:
            yield _insert(store, rows, str(path))


def copy_runs(source: DBStore, target: DBStore, run_ids: Iterable[str]) -> Iterator[Outcome]:
    """Copy runs into another database, their rows as they stand but for secrets, each run unless it is there.

    Args:
        source: Where they are.
        target: Where they are to be.
        run_ids: The runs.

    Yields:
        What became of each.

    Raises:
        peewee.PeeweeException: If a database cannot be read or written.
    """
    there = {run_id for run_id, _ in target.table.runs(fragments.RUN_LOG)}
    for run_id in run_ids:
        if run_id in there:
            yield Outcome(run_id, False)
            continue
        # Where others wrote a row twice, the newest counts.
        newest = {row[1:3]: row for row in source.table.read_runs([run_id])}
        rows = [_without_secrets(row) for row in newest.values() if isinstance(row.attribute_value, str)]
        if not rows:
            yield Outcome(run_id, False, "it is gone")
            continue
        outcome = _insert(target, rows, run_id)
        ended = any(has_ended(row) for row in rows if row.attribute_type in fragments.RUN_LOG)
        note = "" if ended or not outcome.done else "it has not ended, and is copied as it stands now"
        yield outcome._replace(note=note)


def are_same(a: ManagedDatabase, b: ManagedDatabase) -> bool:
    """Tell whether two databases are one.

    Args:
        a: A database.
        b: Another.

    Returns:
        Whether they are, as far as their connection strings tell.
    """
    return a.database == b.database and {**a.connect_params} == {**b.connect_params}


def _insert(store: DBStore, rows: Sequence[StoredRow], name: str) -> Outcome:
    try:
        return Outcome(name, store.table.insert_run(rows))
    except (peewee.DataError, peewee.IntegrityError, ValueError) as error:  # The last is a driver's of a character.
        return Outcome(name, False, str(error).strip())


def _without_secrets(row: StoredRow) -> StoredRow:
    if row.attribute_type not in fragments.RUN_LOG or fragments.why_unreadable(*row[1:4]):
        return row
    run_log = fragments.to_header(row.attribute_value)
    clean = without_secrets(run_log.run_config)
    if clean == run_log.run_config:
        return row
    run_log.run_config = clean
    return row._replace(attribute_value=fragments.of_header(run_log).attribute_value)


def _rows_of(run_log: RunLog, changed: datetime) -> List[StoredRow]:
    """The rows of a run, as if they had been written from its first attempt on; where it has none, when it changed."""
    if not run_log.run_id:
        raise ValueError("run_id: it has none")
    run_log.run_config = without_secrets(run_log.run_config)
    attempts = (attempt for step in steps_of(run_log) for attempt in step.attempts)
    times = [time for time in (local_time(attempt.start_time) for attempt in attempts) if time]
    start = min(times, default=changed).astimezone(timezone.utc).replace(tzinfo=None)
    return [
        StoredRow(run_log.run_id, *fragment, start + timedelta(microseconds=number))
        for number, fragment in enumerate(fragments.of_run_log(run_log))
    ]


def _is_chunked(path: Path) -> bool:
    return (path / RUN_LOG_CHUNK).is_file()


def _load(path: Path) -> Dict[str, Any]:
    loaded = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, dict):
        raise TypeError
    return loaded


def _read_chunks(folder: Path) -> RunLog:
    """Assemble a run of `chunked-fs`, which magnus itself cannot where a branch's name has a dot."""
    run_log = RunLog(**_load(folder / RUN_LOG_CHUNK))
    rows = fragments.of_run_log(run_log)
    for path in sorted([*folder.glob("StepLog-*"), *folder.glob("BranchLog-*")], key=_written):
        loaded = _load(path)
        is_step = path.name.startswith("StepLog-")
        rows += fragments.of_step(StepLog(**loaded)) if is_step else fragments.of_branch(BranchLog(**loaded))
    for path in sorted(folder.glob("Parameter-*")):
        rows += fragments.of_parameters(_load(path))
    assembled = fragments.to_run_log(rows)
    assert assembled  # noqa: S101 - there is a header
    return assembled


def _written(path: Path) -> int:
    """When magnus first wrote a chunk, as its name tells."""
    return int(path.stem.rpartition("-")[2])

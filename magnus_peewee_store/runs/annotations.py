"""Tags and notes, which people add to runs. Each is a row of its own."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Iterable, List, Optional, Sequence

from magnus_peewee_store import fragments
from magnus_peewee_store.db.rows import Requirement, Row
from magnus_peewee_store.exceptions import InvalidValueError, RunNotFoundError, UnreadableRowError
from magnus_peewee_store.origin import this_process
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import from_created_at, utcnow

_HEADER = Requirement(fragments.RUN_LOG, fragments.RUN_LOG_KEY)


@dataclass(frozen=True)
class Note:
    """A note about a run."""

    text: str
    user: Optional[str]
    """Who wrote it."""
    time: Optional[datetime]
    """When it was written, in UTC."""


def tag_run(store: DBStore, run_id: str, *names: str) -> None:
    """Add tags to a run. The tag that `magnus execute --tag` set stays.

    Args:
        run_id: The whole id.

    Raises:
        RunNotFoundError: If there is no such run.
        InvalidValueError: If a name is empty.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run")
        >>> runs.tag_run(store, "my-run", "released")
        >>> [run.run_id for run in runs.list_runs(store, tag="released")]
        ['my-run']
    """
    _write_tags(store, run_id, names, is_set=True)


def untag_run(store: DBStore, run_id: str, *names: str) -> None:
    """Remove tags that `tag_run` added.

    Args:
        run_id: The whole id.
        names: The tags. A tag that the run does not have is ignored.

    Raises:
        RunNotFoundError: If there is no such run.
    """
    present = tags_of(store.table.read(run_id, fragments.TAG))
    # The rows stay, with `is_set` false: pipelines' roles may update rows, but perhaps not delete them.
    _write_tags(store, run_id, [name for name in names if name in present], is_set=False)


def add_note(store: DBStore, run_id: str, text: str) -> None:
    """Add a note to a run.

    Args:
        run_id: The whole id.

    Raises:
        RunNotFoundError: If there is no such run.
        InvalidValueError: If the text is empty.
    """
    if not text.strip():
        raise InvalidValueError("A note must not be empty.")
    now = utcnow().isoformat()
    _write(store, run_id, [(fragments.NOTE[0], now, json.dumps({"text": text, "user": this_process().user}))])


def tags_of(rows: Iterable[Row]) -> List[str]:
    """Return the tags among rows of a run, oldest first. Rows that cannot be read are left out."""
    tags = {row[1]: _parse(row).get("is_set") is True for row in rows if row[0] in fragments.TAG}
    return [name for name, is_set in tags.items() if is_set]


def notes_of(rows: Iterable[Row]) -> List[Note]:
    """Return the notes among rows of a run, oldest first. Rows that cannot be read are left out."""
    notes = []
    for row in rows:
        if row[0] in fragments.NOTE:
            note = _parse(row)
            if isinstance(note.get("text"), str):
                notes.append(Note(note["text"], note.get("user"), _time_of(row[1])))
    return notes


def _write_tags(store: DBStore, run_id: str, names: Sequence[str], is_set: bool) -> None:
    if not all(name.strip() for name in names):
        raise InvalidValueError("A tag must not be empty.")
    value = json.dumps({"is_set": is_set, "user": this_process().user})
    _write(store, run_id, [(fragments.TAG[0], name, value) for name in dict.fromkeys(names)])


def _write(store: DBStore, run_id: str, rows: Sequence[Row]) -> None:
    is_found = store.table.upsert(run_id, rows, requires=[_HEADER]) if rows else store.table.has(run_id, *_HEADER)
    if not is_found:
        raise RunNotFoundError(f"There is no run '{run_id}'.")


def _parse(row: Row) -> Any:
    try:
        value = fragments.parse(*row)
    except UnreadableRowError:
        return {}
    return value if isinstance(value, dict) else {}


def _time_of(key: str) -> Optional[datetime]:
    try:
        return from_created_at(datetime.fromisoformat(key))
    except ValueError:
        return None

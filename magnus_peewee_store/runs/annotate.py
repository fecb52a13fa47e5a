"""What people say about runs: tags and notes, each a row of its own, and that a run has died."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from magnus_peewee_store import fragments
from magnus_peewee_store.db.queries import Types
from magnus_peewee_store.db.table import Row
from magnus_peewee_store.db.whole_runs import StoredRow
from magnus_peewee_store.exceptions import InvalidValueError
from magnus_peewee_store.heartbeat import end_unfinished
from magnus_peewee_store.origin import this_process
from magnus_peewee_store.runs.merging import changed_time
from magnus_peewee_store.store import DBStore, RunNotFoundError
from magnus_peewee_store.times import next_tick, parse_time, utcnow

Values = Dict[str, Dict[str, Any]]  # what rows of tags or notes hold, by attribute_key


@dataclass(frozen=True)
class Note:
    """A note about a run."""

    text: str
    user: Optional[str]
    """Who wrote it."""
    time: Optional[datetime]
    """When it was written, in UTC."""
    number: int = field(default=0, compare=False)
    """Its number within the run. It stays the same if another note is deleted."""


def tag_run(store: DBStore, run_id: str, *names: str) -> None:
    """Add tags to a run. The tag that `magnus execute --tag` set stays. `run_id` is the whole id.

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
    """Remove tags that `tag_run` added. Tags that the run does not have are ignored. `run_id` is the whole id.

    Raises:
        RunNotFoundError: If there is no such run.
    """
    # The rows stay, with `is_set` false: pipelines' roles may update rows, but perhaps not delete them.
    _write_tags(store, run_id, names, is_set=False)


def add_note(store: DBStore, run_id: str, text: str) -> int:
    """Add a note to a run. Return the number of the note. `run_id` is the whole id.

    Raises:
        RunNotFoundError: If there is no such run.
        InvalidValueError: If the text is empty.
    """
    key = utcnow().isoformat()
    _check_text("note", text)
    _change(store, run_id, fragments.NOTE, lambda notes: {key: {"text": text, "user": this_process().user}})
    return [row[1] for row in _note_rows(store.table.read(run_id, fragments.NOTE))].index(key) + 1


def edit_note(store: DBStore, run_id: str, number: int, text: str) -> None:
    """Replace the text of a note. Its number, user and time stay. `run_id` is the whole id, `number` is `Note.number`.

    Raises:
        InvalidValueError: If the run has no such note, or the text is empty.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run")
        >>> number = runs.add_note(store, "my-run", "looks god")
        >>> runs.edit_note(store, "my-run", number, "looks good")
        >>> [note.text for note in runs.read_run(store, "my-run").notes]
        ['looks good']
    """
    _check_text("note", text)
    _change_note(store, run_id, number, lambda note: {**note, "text": text})


def delete_note(store: DBStore, run_id: str, number: int) -> str:
    """Delete a note. Return its text. The other notes keep their numbers. The arguments are those of `edit_note`.

    Raises:
        InvalidValueError: If the run has no such note.
    """
    # The row stays without the text, so that a copy does not bring the note back.
    note = _change_note(store, run_id, number, lambda note: {"is_deleted": True, "user": this_process().user})
    return str(note["text"])


def tags_of(rows: Iterable[Row], own_tag: Optional[str]) -> Tuple[str, ...]:
    """Return the tags among rows of a run besides its own, oldest first. Rows that cannot be read are left out."""
    tags = {row[1]: _parse(row).get("is_set") is True for row in rows if row[0] in fragments.TAG}
    return tuple(name for name, is_set in tags.items() if is_set and name != own_tag)


def notes_of(rows: Iterable[Row]) -> Tuple[Note, ...]:
    """Return the notes among rows of a run, oldest first. Deleted notes, and rows that cannot be read, are left out."""
    values = [(row[1], _parse(row)) for row in _note_rows(rows)]
    return tuple(
        Note(value["text"], value["user"] if isinstance(value.get("user"), str) else None, parse_time(key, 0), number)
        for number, (key, value) in enumerate(values, start=1)
        if isinstance(value.get("text"), str)
    )


def _note_rows(rows: Iterable[Row]) -> List[Row]:
    """Return the rows of notes, also of deleted ones, in the order of their numbers: by the time in the key."""
    return sorted(row for row in rows if row[0] in fragments.NOTE)


def _change_note(
    store: DBStore, run_id: str, number: int, change: Callable[[Dict[str, Any]], Dict[str, Any]]
) -> Dict[str, Any]:
    """Change the value of a note, and return what it was."""
    found: Dict[str, Any] = {}

    def change_one(notes: Values) -> Values:
        for index, key in enumerate(sorted(notes), start=1):
            if index == number and isinstance(notes[key].get("text"), str):
                found.update(notes[key])
                return {key: change(found)}
        raise InvalidValueError(f"Run '{run_id}' has no note {number}.")

    _change(store, run_id, fragments.NOTE, change_one)
    return found


def _write_tags(store: DBStore, run_id: str, names: Sequence[str], is_set: bool) -> None:
    for name in names:
        _check_text("tag", name)
    value = {"is_set": is_set, "user": this_process().user}

    def set_tags(tags: Values) -> Values:
        return {name: value for name in names if is_set or tags.get(name, {}).get("is_set") is True}

    _change(store, run_id, fragments.TAG, set_tags)


def _check_text(what: str, text: str) -> None:
    if not text.strip():
        raise InvalidValueError(f"A {what} must not be empty.")


def _change(store: DBStore, run_id: str, types: Types, change: Callable[[Values], Values]) -> None:
    """Write tags or notes, decided under a lock on the run: of two writers, the later one gets the later time."""

    def decide(rows: List[StoredRow]) -> Tuple[List[StoredRow], List[StoredRow]]:
        if not any(row.attribute_type in fragments.RUN_LOG for row in rows):
            raise RunNotFoundError(f"There is no run '{run_id}'.")
        present = {row.attribute_key: _parse(row.fragment) for row in rows if row.attribute_type in types}
        changed = {key: _dump(value, present.get(key, {})) for key, value in change(present).items()}
        times = (row.created_at for row in rows if isinstance(row.created_at, datetime))
        created_at = max([utcnow(), *map(next_tick, times)])
        return [StoredRow(run_id, types[0], key, value, created_at) for key, value in changed.items()], []

    store.table.change_run(run_id, decide, fragments.RUN_LOG + types)


def _dump(value: Dict[str, Any], replaced: Dict[str, Any]) -> str:
    """Return the value of a row. A copy keeps the later one, so it is later than what it replaces on any clock."""
    before = changed_time(replaced)
    return json.dumps({**value, "changed": max(filter(None, [utcnow(), before and next_tick(before)])).isoformat()})


def _parse(row: Row) -> Dict[str, Any]:
    """Return the object that a row holds; an empty one if the row cannot be read."""
    value = fragments.parse_or_none(*row)
    return value if isinstance(value, dict) else {}


def mark_failed(store: DBStore, run_id: str) -> List[str]:
    """End a run that died: it and its unfinished steps and branches become FAIL. `run_id` is the whole id.

    Each of those steps gets a message that says who marked it and when. The run gets a note. Steps and branches that
    have ended do not change. This function does not check whether a process still works on the run.

    Returns:
        The internal names of the steps and branches that were unfinished.

    Raises:
        RunNotFoundError: If there is no such run, or its own row cannot be read.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run", status="PROCESSING")
        >>> runs.mark_failed(store, "my-run")
        []
        >>> store.get_run_log_by_id("my-run").status
        'FAIL'
    """
    me = this_process()
    message = f"Marked as failed by {me.user} on {me.host}, {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}"

    def mark(attribute_type: str, log: Any) -> Dict[str, Any]:
        changes = {"message": message} if attribute_type in fragments.STEP else {}
        return {**changes, fragments.MARKED_FAILED: True}

    # The run's own row comes last, so that an interrupted call can be repeated.
    ended = end_unfinished(store.table, run_id, mark)
    header = store.table.read(run_id, fragments.RUN_LOG)
    if not header or not fragments.parse_or_none(*header[-1]):
        raise RunNotFoundError(f"There is no run '{run_id}' whose own row can be read.")
    if end_unfinished(store.table, run_id, mark, fragments.RUN_LOG):
        add_note(store, run_id, "Marked as failed")
    return ended

"""The rows of the table `db_log`, and the texts that their columns accept."""

import datetime
from typing import Any, NamedTuple, Tuple

from magnus_peewee_store.db.queries import Types
from magnus_peewee_store.exceptions import InvalidValueError

Row = Tuple[str, str, str]  # attribute_type, attribute_key, attribute_value


class StoredRow(NamedTuple):
    """A row as the table stores it, without its pk."""

    run_id: str
    attribute_type: str
    attribute_key: str
    attribute_value: str
    created_at: datetime.datetime

    @property
    def fragment(self) -> Row:
        """The columns attribute_type, attribute_key and attribute_value."""
        return self[1:4]


class Requirement(NamedTuple):
    """A row that a run must have: one of several types, and a key."""

    types: Types
    name: str


def check_texts(run_id: Any, *rows: Row, name: Any = None) -> None:
    """Check a run id, the keys of rows, and a key.

    Raises:
        InvalidValueError: If one of them is not text that every database can store and compare.
    """
    _check_text("run id", run_id)
    for row in rows:
        _check_text(f"name of a {row[0]}", row[1])
    if name is not None:
        _check_text("name", name)


def _check_text(what: str, text: Any) -> None:
    if not isinstance(text, str) or "\0" in text or _has_lone_surrogates(text):
        raise InvalidValueError(f"The {what} must be text without NUL and lone surrogates, not {text!r}.")


def _has_lone_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

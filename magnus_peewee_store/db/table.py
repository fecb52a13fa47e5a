"""The rows of the table `db_log`, as `create_tables` makes it: each write is one statement."""

import functools
import json
from datetime import datetime
from typing import Any, Callable, ContextManager, Dict, List, Optional, Sequence, Tuple, TypeVar

import peewee

from magnus_peewee_store.db.base import TABLE
from magnus_peewee_store.db.queries import Queries, Types
from magnus_peewee_store.db.schema import Layout, Schema
from magnus_peewee_store.exceptions import InvalidValueError, WrongTableError
from magnus_peewee_store.times import utcnow

# The maximum size of the rows in one statement. They fit into MySQL's packet, even if escaping quadruples their size.
BATCH_BYTES = 100_000
WRITE_ATTEMPTS = 20  # how often a write is repeated that other processes get ahead of
STATEMENT_OVERHEAD = 8192  # bytes of a statement besides the value that it writes

Row = Tuple[str, str, str]  # attribute_type, attribute_key, attribute_value
Requirement = Tuple[Types, str]  # a row that a run must have: one of several types, and a key

T = TypeVar("T")


def check_texts(run_id: Any, *rows: Row, name: Any = None) -> None:
    """Check that a run id, the keys of rows, and a key are texts that every database can store and compare."""
    _check_text("run id", run_id)
    for row in rows:
        _check_text(f"name of a {row[0]}", row[1])
    if name is not None:
        _check_text("name", name)


def _check_text(what: str, text: Any) -> None:
    if not isinstance(text, str) or "\0" in text or not (text.isascii() or _is_encodable(text)):
        raise InvalidValueError(f"The {what} must be text without NUL and lone surrogates, not {text!r}.")


def _is_encodable(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def retrying(method: Callable[..., T]) -> Callable[..., T]:
    """Decorate a method of a table: retry transient errors."""

    @functools.wraps(method)
    def wrapped(self: "LogTable", *args: Any, **kwargs: Any) -> T:
        return self.database.retry(method, self, *args, **kwargs)

    return wrapped


class LogTable:
    """The rows of `db_log`. Transient errors are retried.

    In all methods, `types` are alternatives of attribute_type, and `name` is an attribute_key. None means any. If a run
    lacks a row that `requires` names, nothing is written.
    """

    def __init__(self, schema: Schema, layout: Layout) -> None:
        self.database = schema.database
        self._schema = schema
        self._log = schema.model
        self._queries = Queries(schema.model, layout)

    @retrying
    def read(
        self, run_id: str, types: Optional[Types] = None, name: Optional[str] = None, except_types: Types = ()
    ) -> List[Row]:
        """Return rows of a run, oldest first."""
        check_texts(run_id, name=name)
        return self._read(run_id, types, name, except_types=except_types)

    @retrying
    def has(self, run_id: str, types: Optional[Types] = None, name: Optional[str] = None) -> bool:
        """Return True if the run has such a row."""
        check_texts(run_id, name=name)
        return self._has(run_id, types, name)

    def _read(
        self,
        run_id: str,
        types: Optional[Types],
        name: Optional[str],
        is_locking: bool = False,
        except_types: Types = (),
    ) -> List[Row]:
        has_row_locks = bool(self.database.for_update)
        query = self._queries.select(types, name is not None, is_locking and has_row_locks, except_types)
        return list(query.run(run_id=run_id, name=name).fetchall())

    def _has(self, run_id: str, types: Optional[Types] = None, name: Optional[str] = None) -> bool:
        query = self._queries.select_one(types, name is not None)
        return query.run(run_id=run_id, name=name).fetchone() is not None

    def insert(self, run_id: str, row: Row) -> bool:
        """Write a row, unless the run already has a row with its type and key. Return True if the row was written."""
        check_texts(run_id, row)
        return self.database.retry(self._insert, run_id, row, utcnow())

    @retrying
    def upsert(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement] = ()) -> bool:
        """Write rows, all or none. Each replaces the run's row of the same type and key.

        Returns:
            False if the run lacks a row that `requires` names.
        """
        check_texts(run_id, *rows)
        for _ in range(WRITE_ATTEMPTS):
            if self._upsert(run_id, rows, requires):
                return True
            if not all(self._has(run_id, *each) for each in requires):
                return False
            # In the meantime another process has created the required rows, or changed a row that MySQL did not count
            # because it had the value already.
        raise WrongTableError(
            f"The database {self.database.masked_url} accepts rows of run '{run_id}' and does not store them. "
            "Look for a trigger or a rule on the table."
        )

    @retrying
    def update(self, run_id: str, types: Types, name: str, change: Callable[[str], str]) -> bool:
        """Replace the value of a row by `change(value)`, atomically. Return False if there is no such row."""
        check_texts(run_id, name=name)
        with self._transaction(run_id):
            rows = self._read(run_id, types, name, is_locking=True)
            return bool(rows) and self._write(run_id, [(*rows[-1][:2], change(rows[-1][2]))])

    def upsert_once(
        self, run_id: str, make_row: Callable[[datetime], Row], requires: Sequence[Requirement], timeout: float
    ) -> None:
        """Write a row like `upsert`, but without retries; see `Backend.try_once`.

        Args:
            make_row: Returns the row, given the time in UTC by the database's clock.
            timeout: How many seconds to wait for another thread.
        """
        self.database.try_once(lambda: self._upsert(run_id, [make_row(self.database.now())], requires), timeout)

    def _transaction(self, run_id: str) -> ContextManager[Any]:
        """Open a transaction that writes rows of a run."""
        return self.database.atomic()  # type: ignore[no-any-return,unused-ignore]

    def _insert(self, run_id: str, row: Row, now: datetime) -> bool:
        self._check_size(run_id, row)
        try:
            if self._insert_row(now, run_id, row):
                return True
        except peewee.IntegrityError:
            if not self._has(run_id, (row[0],), row[1]):
                raise
        return self._has_inserted(run_id, row, now)

    def _has_inserted(self, run_id: str, row: Row, created_at: datetime) -> bool:
        """Return True if an earlier attempt wrote a row, and its acknowledgement was lost."""
        return self.database.attempt > 0 and self._is_stored(run_id, row, created_at)

    def _insert_row(self, now: datetime, run_id: str, row: Row) -> bool:
        """Write a row and return True. If the run has such a row, raise IntegrityError or return False."""
        attribute_type, attribute_key, attribute_value = row
        self._queries.insert().run(
            now=str(now),
            run_id=run_id,
            attribute_type=attribute_type,
            attribute_key=attribute_key,
            attribute_value=attribute_value,
        )
        return True

    def _is_stored(self, run_id: str, row: Row, created_at: Optional[datetime] = None) -> bool:
        log = self._log
        stored = self._queries.rows_of(run_id, (row[0],), row[1]).where(log.attribute_value == row[2])
        if created_at:
            stored = stored.where(log.created_at == created_at)
        return bool(stored.exists())

    def _batches(self, rows: Sequence[Row]) -> List[Sequence[Row]]:
        """Split rows into batches of one statement each. The last row for a key wins."""
        rows = list({row[:2]: row for row in rows}.values())
        if not self.database.has_json_rows:
            return [[row] for row in rows]
        batches: List[List[Row]] = []
        room = 0
        for row in rows:
            size = sum(map(len, row))
            room -= size
            if room < 0 or not batches:
                batches.append([])
                room = BATCH_BYTES - size
            batches[-1].append(row)
        return [*batches]

    def _lock(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement]) -> bool:
        """Lock the required rows, and return True if the run has them.

        If the database locks in order, also lock the rows to write, to prevent deadlocks.
        """
        if not self.database.has_ordered_locks:
            return all(self._read(run_id, types, name, is_locking=True) for types, name in requires)
        keys = [row[:2] for row in rows] + [(each, name) for types, name in requires for each in types]
        locked = set(self._queries.lock().run(run_id=run_id, rows=json.dumps(keys, ensure_ascii=False)).fetchall())
        return all(any((each, name) in locked for each in types) for types, name in requires)

    def _upsert(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement]) -> bool:
        batches = [rows] if len(rows) == 1 else self._batches(rows)
        if len(batches) == 1:
            return self._write(run_id, batches[0], requires)
        with self._transaction(run_id):
            return self._lock(run_id, rows, requires) and all(self._write(run_id, batch) for batch in batches)

    def _write(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement] = ()) -> bool:
        """Write a batch. Return False, and write nothing, if the run lacks a required row."""
        for row in rows:
            self._check_size(run_id, row)
        values: Dict[str, Any] = {f"required_{number}": name for number, (_, name) in enumerate(requires)}
        if len(rows) == 1:
            values["attribute_type"], values["attribute_key"], values["attribute_value"] = rows[0]
        else:
            values["rows"] = json.dumps(rows, ensure_ascii=False)
        query = self._queries.insert_or_update(tuple(types for types, _ in requires), len(rows) > 1)
        cursor = query.run(run_id=run_id, now=str(utcnow()), **values)
        # MySQL does not count a row that already has the value.
        return cursor.rowcount > 0 or all(self._is_stored(run_id, row) for row in rows)

    def _check_size(self, run_id: str, row: Row) -> None:
        """Raise an error for a value that is too large for MariaDB or MySQL, or for its column there."""
        max_packet, max_value_bytes = self.database.max_packet, self._queries.layout.max_value_bytes
        if max_packet is None:
            return
        size = len(row[2].encode(errors="surrogatepass"))
        # MySQL's drivers put a backslash before each of these characters.
        sent = size + sum(row[2].count(character) for character in "\"'\\") + STATEMENT_OVERHEAD
        if sent > max_packet:
            advice = (
                f"A statement of {sent} bytes is more than the server of {self.database.masked_url} accepts "
                f"({max_packet}). Raise its max_allowed_packet."
            )
        elif max_value_bytes and size > max_value_bytes:
            advice = (
                f"The table {TABLE} in {self.database.masked_url} accepts at most {max_value_bytes} bytes. "
                "Run create_tables, which widens the column."
            )
        else:
            return
        raise InvalidValueError(f"The {row[0]} '{row[1]}' of run '{run_id}' has {size} bytes. {advice}")

"""The rows of the table `db_log`, as `create_tables` makes it: each write is one statement."""

import datetime
import functools
import json
import operator
import time
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

import peewee
from peewee import fn

from magnus_peewee_store.db.base import TABLE
from magnus_peewee_store.db.queries import Paths, Queries, Types
from magnus_peewee_store.db.schema import Layout, Schema
from magnus_peewee_store.exceptions import InvalidValueError, WrongTableError
from magnus_peewee_store.times import utcnow

# The maximum size of the rows in one statement. They fit into MySQL's packet, even if escaping quadruples their size.
BATCH_BYTES = 100_000
DELETE_BATCH = 500  # the maximum number of rows that one DELETE names
WRITE_ATTEMPTS = 20  # how often a write is repeated that other processes get ahead of
DELETE_PAUSE = 0.2  # seconds: longer than a statement takes
STATEMENT_OVERHEAD = 8192  # bytes of a statement besides the value that it writes

Row = Tuple[str, str, str]  # attribute_type, attribute_key, attribute_value
Requirement = Tuple[Types, str]  # a row that a run must have: one of several types, and a key

T = TypeVar("T")


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


Rows = Sequence[StoredRow]
Change = Callable[[List[StoredRow]], Tuple[Rows, Rows]]  # given rows, returns the rows to write and to delete

BATCH_SIZE = 50  # runs to read in one query; larger batches cost more garbage collection than the queries they save


def batches(items: Sequence[T], size: int = BATCH_SIZE) -> Iterator[Sequence[T]]:
    """Yield a sequence in slices of `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


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

    In all methods, `types` are alternatives of attribute_type, and `name` is an attribute_key. None means any.

    Args:
        schema: The table.
        layout: What `Schema.inspect` returned.
    """

    def __init__(self, schema: Schema, layout: Layout) -> None:
        self.database = schema.database
        self._schema = schema
        self._log = schema.model
        self._queries = Queries(schema.model, layout)
        self._stored = [getattr(self._log, name) for name in StoredRow._fields]

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

    @retrying
    def runs(
        self,
        types: Sequence[str],
        since: Optional[datetime.datetime] = None,
        prefix: str = "",
        containing: Sequence[str] = (),
        containing_or_with_row: Optional[Mapping[str, Requirement]] = None,
        limit: Optional[int] = None,
    ) -> List[Tuple[str, datetime.datetime]]:
        """Return the id of each run that has a row of these types, with the row's created_at, newest first.

        Args:
            types: Types that occur only once in a run, such as the type of the run's own row.
            since: Return only rows created at this time or later.
            prefix: Return only runs whose id begins with it.
            containing: Return only rows whose value contains each of these texts, ignoring case.
            containing_or_with_row: Maps each text to another row. For each text, return only rows whose value contains
                it, or whose run has the other row.
            limit: The largest number of runs.
        """
        log = self._log
        rows = log.select(log.run_id, log.created_at).where(log.attribute_type.in_(types))
        if since:
            rows = rows.where(log.created_at >= since)
        if prefix:
            rows = rows.where(self._queries.comparable(fn.SUBSTR(log.run_id, 1, len(prefix))) == prefix)
        for text in containing:
            rows = rows.where(log.attribute_value.contains(text))
        for text, (other_types, name) in (containing_or_with_row or {}).items():
            runs_with_row = self._queries.rows_of(None, other_types, name).select(log.run_id)
            rows = rows.where(log.attribute_value.contains(text) | log.run_id.in_(runs_with_row))
        return list(rows.order_by(log.created_at.desc(), log.run_id.desc()).limit(limit).tuples())

    @retrying
    def count_runs(self, types: Sequence[str]) -> int:
        """Return how many runs have a row of these types."""
        log = self._log
        return int(log.select(fn.COUNT(log.run_id.distinct())).where(log.attribute_type.in_(types)).scalar())

    def read_runs(self, run_ids: Sequence[str], types: Optional[Types] = None) -> Iterator[StoredRow]:
        """Yield rows of runs. The rows of one run come oldest first."""
        for batch in batches(run_ids):
            yield from self._read_runs(batch, types)

    @retrying
    def _read_runs(self, run_ids: Sequence[str], types: Optional[Types]) -> List[StoredRow]:
        log = self._log
        rows = log.select(*self._stored).where(self._queries.comparable(log.run_id).in_(run_ids))
        created_at = log.created_at
        if types is not None:
            rows, created_at = rows.where(log.attribute_type.in_(types)), self._queries.sorted_created_at
        rows = self.database.execute(rows.order_by(created_at, log.pk)).fetchall()
        return [self._to_stored(row) for row in rows]

    @retrying
    def created_at_range(self, run_id: str, types: Optional[Types] = None) -> Tuple[Any, Any]:
        """Return the oldest and the newest created_at of rows of a run; (None, None) if there are no such rows."""
        created_at = self._log.created_at
        rows = self._queries.rows_of(run_id, types)
        oldest, newest = rows.select(fn.MIN(created_at), fn.MAX(created_at)).scalar(as_tuple=True)
        return oldest, newest

    @retrying
    def find(
        self, types: Types, *texts: str, without: Sequence[str] = (), run_ids: Optional[Sequence[str]] = None
    ) -> List[StoredRow]:
        """Return the rows whose value contains one of some texts, ignoring case, oldest first.

        Args:
            texts: The texts, at most a hundred. Without any, all rows are returned.
            without: The texts that the value must not contain.
            run_ids: Return only rows of these runs, at most a few hundred.
        """
        log = self._log
        rows = log.select(*self._stored).where(log.attribute_type.in_(types))
        if texts:
            rows = rows.where(functools.reduce(operator.or_, map(log.attribute_value.contains, texts)))
        for unwanted in without:
            rows = rows.where(~log.attribute_value.contains(unwanted))
        if run_ids is not None:
            rows = rows.where(self._queries.comparable(log.run_id).in_(run_ids))
        rows = self.database.execute(rows.order_by(log.created_at, log.pk)).fetchall()
        return [self._to_stored(row) for row in rows]

    @retrying
    def read_fields(self, run_ids: Sequence[str], types: Types, field_types: Types, paths: Paths) -> List[Any]:
        """Return rows of one batch of runs as (run_id, attribute_type, attribute_key, value, created_at).

        The rows are grouped by run, and each group is sorted, oldest first. For `types`, value is attribute_value. For
        `field_types`, it is what `Backend.json_fields` returns. created_at is as the driver returns it; see
        `parse_created_at`.
        """
        query = self._queries.select_fields(len(run_ids), types, field_types, paths)
        # peewee's conversions would take longer than the query.
        return list(query.run(**{f"run_id_{number}": run_id for number, run_id in enumerate(run_ids)}).fetchall())

    def parse_created_at(self, created_at: Any) -> Any:
        """Convert a created_at that the driver returned."""
        return self._log.created_at.python_value(created_at)

    def scan(self, size: int) -> Iterator[List[StoredRow]]:
        """Yield the whole table in the order of pk, in lists of at most `size` rows."""
        pk, rows = self._read_after(0, size)
        while rows:
            yield rows
            pk, rows = self._read_after(pk, size)

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

    @retrying
    def _read_after(self, pk: int, size: int) -> Tuple[int, List[StoredRow]]:
        """Return the next rows after a pk. The first item is the pk of the last row."""
        log = self._log
        query = log.select(*self._stored, log.pk).where(log.pk > pk).order_by(log.pk).limit(size)
        rows = self.database.execute(query).fetchall()
        return (rows[-1][-1] if rows else pk), [self._to_stored(row) for row in rows]

    def _to_stored(self, row: Sequence[Any]) -> StoredRow:
        """Convert a row that the driver returned. peewee's own conversion takes as long as the query."""
        return StoredRow._make((*row[:4], self.parse_created_at(row[4])))

    def insert(self, run_id: str, row: Row) -> bool:
        """Write a row, unless the run already has a row with its type and key. Return True if the row was written."""
        check_texts(run_id, row)
        return self.database.retry(self._insert, run_id, row, utcnow())

    @retrying
    def upsert(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement] = ()) -> bool:
        """Write rows, all or none. Each replaces the run's row of the same type and key.

        Returns:
            False, and nothing is written, if the run lacks a row that `requires` names.

        Raises:
            WrongTableError: If the database accepts the rows and does not store them.
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
        """Replace the value of a row by `change(value)`, atomically.

        Returns:
            False if there is no such row.
        """
        check_texts(run_id, name=name)
        with self._transaction(run_id):
            rows = self._read(run_id, types, name, is_locking=True)
            return bool(rows) and self._write(run_id, [(*rows[-1][:2], change(rows[-1][2]))])

    def upsert_once(
        self,
        run_id: str,
        make_row: Callable[[datetime.datetime], Row],
        requires: Sequence[Requirement],
        timeout: float,
    ) -> bool:
        """Write a row like `upsert`, but without retries. See `Backend.try_once`.

        Args:
            make_row: Returns the row, given the time in UTC by the database's clock.
            requires: The rows that the run must have.
            timeout: How many seconds to wait for another thread.

        Returns:
            False, and nothing is written, if the run lacks a row that `requires` names.
        """

        def write() -> bool:
            return self._upsert(run_id, [make_row(self.database.now())], requires)

        return self.database.try_once(write, timeout)

    def insert_run(self, rows: Sequence[StoredRow]) -> bool:
        """Write the rows of one run with their created_at, all or none.

        Returns:
            False, and nothing is written, if the run already has a row.
        """
        check_texts(rows[0].run_id, *(row.fragment for row in rows))
        return self.database.retry(self._insert_run, rows)

    @retrying
    def change_run(self, run_id: str, change: Change, types: Optional[Types] = None) -> None:
        """Change the rows of a run in one transaction, decided under a lock on its rows.

        Args:
            run_id: The id of the run.
            change: Given the present rows, returns the rows to write, and the rows to delete. A row that the run has
                keeps its created_at.
            types: Read and lock only rows of these types.
        """
        check_texts(run_id)
        for remaining in reversed(range(WRITE_ATTEMPTS)):
            try:
                self._change_run(run_id, change, types)
                return
            except peewee.IntegrityError:
                # Another process has inserted one of the rows in the meantime.
                if not remaining:
                    raise

    def _change_run(self, run_id: str, change: Change, types: Optional[Types]) -> None:
        log = self._log
        with self._transaction(run_id):
            query = self._queries.rows_of(run_id, types).select(*self._stored, log.pk).order_by(log.created_at, log.pk)
            rows = self.database.execute(query).fetchall()
            locked = None
            while self.database.for_update and locked != rows:  # Rows that another process has added lack a lock.
                self.database.execute(query.for_update()).fetchall()
                locked, rows = rows, self.database.execute(query).fetchall()
            stored = [self._to_stored(row) for row in rows]
            pks: Dict[Tuple[str, str], List[int]] = {}
            for row in rows:
                pks.setdefault(tuple(row[1:3]), []).append(row[5])
            wanted, surplus = change(stored)
            check_texts(run_id, *(row.fragment for row in wanted))
            gone = [row[5] for row, each in zip(rows, stored) if each in surplus]
            for start in range(0, len(gone), DELETE_BATCH):
                log.delete().where(log.pk.in_(gone[start : start + DELETE_BATCH])).execute()
            for row in wanted:
                self._check_size(run_id, row.fragment)
                kept = [pk for pk in pks.get(row[1:3], ()) if pk not in gone]
                if kept:
                    log.update(attribute_value=row.attribute_value).where(log.pk.in_(kept)).execute()
                else:
                    self._queries.insert_stored().run(**row._asdict())

    def delete(self, run_id: str, is_being_written: bool = False) -> int:
        """Delete all rows of a run, and return how many there were.

        Args:
            is_being_written: Whether other processes may write rows of the run at the same time.
        """
        total = self._delete_until_none_left(run_id)
        if is_being_written and self.database.has_concurrent_writers:
            # A statement that began before the run's own row was deleted may still add a row. A statement that begins
            # later finds no run, and writes nothing.
            time.sleep(DELETE_PAUSE)
            total += self._delete_until_none_left(run_id)
        return total

    def _delete_until_none_left(self, run_id: str) -> int:
        total = 0
        count = self._delete_once(run_id)
        while count:
            total += count
            count = self._delete_once(run_id)
        return total

    @retrying
    def _delete_once(self, run_id: str) -> int:
        with self._transaction(run_id):
            return int(self._log.delete().where(self._queries.comparable(self._log.run_id) == run_id).execute())

    def _transaction(self, run_id: str) -> ContextManager[Any]:
        """Open a transaction that writes rows of a run."""
        return self.database.atomic()  # type: ignore[no-any-return,unused-ignore]

    def _insert(self, run_id: str, row: Row, now: datetime.datetime) -> bool:
        self._check_size(run_id, row)
        try:
            if self._insert_if_missing(now, run_id, row):
                return True
        except peewee.IntegrityError:
            if not self._has(run_id, (row[0],), row[1]):
                raise
        return self._has_inserted(run_id, row, now)

    def _insert_if_missing(self, now: datetime.datetime, run_id: str, row: Row) -> bool:
        """Write a row and return True. If the run has such a row, raise IntegrityError or return False."""
        self._insert_row(now, run_id, row)
        return True

    def _has_inserted(self, run_id: str, row: Row, created_at: datetime.datetime) -> bool:
        """Return True if an earlier attempt wrote a row, and its acknowledgement was lost."""
        return self.database.attempt > 0 and self._is_stored(run_id, row, created_at)

    def _insert_row(self, now: datetime.datetime, run_id: str, row: Row) -> None:
        attribute_type, attribute_key, attribute_value = row
        self._queries.insert().run(
            now=str(now),
            run_id=run_id,
            attribute_type=attribute_type,
            attribute_key=attribute_key,
            attribute_value=attribute_value,
        )

    def _is_stored(self, run_id: str, row: Row, created_at: Optional[datetime.datetime] = None) -> bool:
        log = self._log
        stored = self._queries.rows_of(run_id, (row[0],), row[1]).where(log.attribute_value == row[2])
        if created_at:
            stored = stored.where(log.created_at == created_at)
        return bool(stored.exists())

    def _insert_run(self, rows: Sequence[StoredRow]) -> bool:
        first = rows[0]
        try:
            with self._transaction(first.run_id):
                if not self._has(first.run_id):
                    for row in rows:
                        self._check_size(row.run_id, row.fragment)
                        self._queries.insert_stored().run(**row._asdict())
                    return True
        except peewee.IntegrityError:
            if not self._has(first.run_id):
                raise
        return self._has_inserted(first.run_id, first.fragment, first.created_at)

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
        """Lock the required rows. If the database locks in order, also lock the rows to write, to prevent deadlocks.

        Returns:
            False if the run lacks a row that `requires` names.
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
        max_packet, max_value_bytes = self.database.max_packet, self._queries.layout.max_value_bytes
        if max_packet is None and max_value_bytes is None:
            return
        size = len(row[2].encode(errors="surrogatepass"))
        if max_packet:
            # MySQL's drivers put a backslash before each of these characters.
            sent = size + sum(row[2].count(character) for character in "\"'\\") + STATEMENT_OVERHEAD
            if sent > max_packet:
                raise _value_too_large(
                    run_id,
                    row,
                    size,
                    f"A statement of {sent} bytes is more than the server of {self.database.masked_url} accepts "
                    f"({max_packet}). Raise its max_allowed_packet.",
                )
        if max_value_bytes and size > max_value_bytes:
            raise _value_too_large(
                run_id,
                row,
                size,
                f"The table {TABLE} in {self.database.masked_url} accepts at most {max_value_bytes} bytes. "
                "Run create_tables, which widens the column.",
            )


def _value_too_large(run_id: str, row: Row, size: int, advice: str) -> InvalidValueError:
    return InvalidValueError(f"The {row[0]} '{row[1]}' of run '{run_id}' has {size} bytes. {advice}")

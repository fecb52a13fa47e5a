"""The table `db_log`: its definition, its making, and the reading and writing of its rows."""

import datetime
import functools
import itertools
import json
import logging
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

import peewee
from peewee import fn

from magnus_peewee_store.connection import make_database
from magnus_peewee_store.databases import ManagedDatabase
from magnus_peewee_store.statements import Statement, given, written_once

logger = logging.getLogger("magnus.db")

Row = Tuple[str, str, str]  # attribute_type, attribute_key, attribute_value
Key = Tuple[Optional[Tuple[str, ...]], Optional[str]]  # any of these attribute_types; attribute_key; None for any


class StoredRow(NamedTuple):
    """A row as it stands in the table."""

    run_id: str
    attribute_type: str
    attribute_key: str
    attribute_value: str
    created_at: datetime.datetime


TABLE = "db_log"
UNIQUE = ("run_id", "attribute_type", "attribute_key")
INDEXES = (
    (UNIQUE, True),
    (("run_id", "created_at"), False),  # for the newest row of a run, at every insert
    (("attribute_type", "created_at", "run_id"), False),  # for the newest runs
)

# Of one statement that writes many rows: one packet of MySQL's must hold them, each quote as four characters.
BATCH_BYTES = 100_000

T = TypeVar("T")


def utcnow() -> datetime.datetime:
    """Tell the time in UTC, without a time zone, as `created_at` holds it.

    Returns:
        The time by this machine's clock.
    """
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


class DBLog(peewee.Model):
    """A row of `db_log`: one fragment of a run log. Bound to no database; a `LogTable` works on a model of its own."""

    pk = peewee.AutoField()
    run_id = peewee.TextField()
    attribute_key = peewee.TextField()
    attribute_type = peewee.TextField()
    attribute_value = peewee.TextField()
    created_at = peewee.DateTimeField(default=utcnow)

    class Meta:
        table_name = TABLE
        indexes = INDEXES


class MissingTableError(peewee.OperationalError):
    """The table is not there, and could not be made; the message says how to make it."""


class DuplicateRowsError(peewee.IntegrityError):
    """Rows that others wrote twice stand in the way of the unique index; the message says which, and what to do."""


def create_tables(connection_string: str) -> List[str]:
    """Make the table `db_log` in a database, or complete one that others made. It can be repeated.

    Args:
        connection_string: The connection string of the database, placeholders filled in.

    Returns:
        What was missing and is there now, a line each.

    Raises:
        ConnectionStringError: If the connection string is not one.
        DuplicateRowsError: If a table that others made has rows that the unique index forbids. Nothing is changed.
        peewee.DatabaseError: If the database cannot be reached, or the role may not make tables.

    Example:
        >>> from magnus_peewee_store import db
        >>> db.create_tables("sqlite:///:memory:")
        ['the table db_log']
    """
    table = LogTable(make_database(connection_string))
    try:
        return table.create()
    finally:
        table.close()


class _Layout(NamedTuple):
    """How the table stands in a database."""

    next_pk: Optional[peewee.Node]
    """What a new row's pk must be, where the column has no default."""
    largest: Optional[int]
    """How many bytes the column attribute_value takes; None if enough."""


def _persistently(method: Callable[..., T]) -> Callable[..., T]:
    """Have a method of `LogTable` done on a table that is there, and again after a fault that passes."""

    @functools.wraps(method)
    def wrapped(table: "LogTable", *args: Any, **kwargs: Any) -> T:
        def work() -> T:
            if not table._layout:
                table._prepare()
            try:
                return method(table, *args, **kwargs)
            except peewee.IntegrityError:
                if not table._was_completed():
                    raise
                return method(table, *args, **kwargs)

        return table.database.persistently(work)

    return wrapped


class LogTable:
    """The rows of `db_log` in one database.

    Args:
        database: The database. It is connected to, and the table made if it is missing, when a row is first asked for.
    """

    def __init__(self, database: ManagedDatabase) -> None:
        self.database = database
        self._log = _bound_to(database)
        self._stored = [getattr(self._log, name) for name in StoredRow._fields]
        self._layout: Optional[_Layout] = None
        self._unique = False  # whether a unique index settles who writes a row first
        self._statements: Dict[Any, Statement] = {}

    def insert(self, run_id: str, row: Row) -> bool:
        """Write a row, unless the run has one of its type and key.

        Args:
            run_id: The run.
            row: The row.

        Returns:
            Whether it was written.
        """
        return self._insert_new(run_id, row, utcnow(), itertools.count())

    @_persistently
    def upsert(self, run_id: str, rows: Sequence[Row], requires: Sequence[Key] = ()) -> bool:
        """Write rows, all or none, each over the one that the run has of its type and key.

        Args:
            run_id: The run.
            rows: The rows.
            requires: What the run must have for the rows to be written.

        Returns:
            Whether they were written.
        """
        batches = [rows] if len(rows) == 1 else self._batches(rows)
        if len(batches) == 1 and self._unique:
            return self._upsert(run_id, batches[0], requires)
        with self._holding(run_id):
            # Locked, what they all require keeps two such transactions from deadlock.
            if not all(self._read(run_id, key, locked=True) for key in requires):
                return False
            return all(self._upsert(run_id, batch) for batch in batches)

    @_persistently
    def update(self, run_id: str, key: Key, change: Callable[[str], str]) -> bool:
        """Change the value of a row, with nobody else's change lost in between.

        Args:
            run_id: The run.
            key: Which row.
            change: Makes the new value of the present one.

        Returns:
            Whether there is such a row.
        """
        with self._holding(run_id):
            rows = self._read(run_id, key, locked=True)
            return bool(rows) and self._upsert(run_id, [(*rows[-1][:2], change(rows[-1][2]))])

    @_persistently
    def read(self, run_id: str, key: Optional[Key] = None) -> List[Row]:
        """Read rows of a run.

        Args:
            run_id: The run.
            key: Which rows: all of the run if None.

        Returns:
            The rows, oldest first.
        """
        return self._read(run_id, key)

    @_persistently
    def has(self, run_id: str, key: Key) -> bool:
        """Tell whether a run has a row.

        Args:
            run_id: The run.
            key: Which row.

        Returns:
            Whether it has.
        """
        return self._has(run_id, key)

    @_persistently
    def runs(
        self,
        types: Sequence[str],
        since: Optional[datetime.datetime] = None,
        prefix: str = "",
        containing: Sequence[str] = (),
        limit: Optional[int] = None,
    ) -> List[Tuple[str, datetime.datetime]]:
        """List runs, by the one row that each has of some types.

        Args:
            types: The types.
            since: The time from which on that row was written.
            prefix: What the run's id begins with.
            containing: Texts that the row's value holds, in whatever case.
            limit: How many runs.

        Returns:
            The run ids, each with the created_at of that row, newest first.
        """
        log = self._log
        rows = log.select(log.run_id, log.created_at).where(log.attribute_type.in_(types))
        if since:
            rows = rows.where(log.created_at >= since)
        if prefix:
            rows = rows.where(self._is(fn.SUBSTR(log.run_id, 1, len(prefix)), prefix))
        for text in containing:
            rows = rows.where(log.attribute_value.contains(text))
        return list(rows.order_by(log.created_at.desc(), log.run_id.desc()).limit(limit).tuples())

    @_persistently
    def read_runs(self, run_ids: Sequence[str], types: Optional[Sequence[str]] = None) -> List[StoredRow]:
        """Read rows of several runs at once.

        Args:
            run_ids: The runs; not more than a few hundred.
            types: Of which types: of all if None.

        Returns:
            The rows, oldest first.
        """
        log = self._log
        rows = log.select(*self._stored).where(self._exact(log.run_id).in_(run_ids))
        if types is not None:
            rows = rows.where(log.attribute_type.in_(types))
        return [StoredRow(*row) for row in rows.order_by(log.created_at, log.pk).tuples()]

    def scan(self, size: int) -> Iterator[List[StoredRow]]:
        """Read the whole table, in the order of pk.

        Args:
            size: How many rows to read at once.

        Yields:
            So many rows.
        """
        rows = self._read_after(0, size)
        while rows:
            yield [StoredRow(*row[1:]) for row in rows]
            rows = self._read_after(rows[-1][0], size)

    def insert_run(self, rows: Sequence[StoredRow]) -> bool:
        """Write a run, all of its rows or none, with the created_at they have, unless the run is there.

        Args:
            rows: The rows of one run. It is there if it has any.

        Returns:
            Whether they were written.
        """
        return self._insert_run(rows, itertools.count())

    @_persistently
    def delete(self, run_id: str) -> int:
        """Delete a run, all of its rows or none.

        Args:
            run_id: The run.

        Returns:
            How many rows were deleted.
        """
        with self._holding(run_id):
            return int(self._log.delete().where(self._is(self._log.run_id, run_id)).execute())

    def create(self) -> List[str]:
        """Make the table, or complete it.

        Returns:
            What was missing and is there now, a line each.

        Raises:
            DuplicateRowsError: If rows stand in the way of the unique index. Nothing is changed.
        """
        return self.database.persistently(self._create)

    def missing(self) -> List[str]:
        """Tell what `create` would do.

        Returns:
            What is missing, a line each: the table, or parts of it.
        """
        return self.database.persistently(self._missing)

    def duplicates(self) -> Dict[str, int]:
        """Count the rows too many that others wrote, which agree with another in all that the unique index covers.

        Returns:
            How many there are, by run.
        """
        return self.database.persistently(self._duplicates)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self.database.lock:
            self.database.close()
            self._forget_layout()  # A database in memory goes with its connection.

    def _prepare(self) -> None:
        """See how the table stands, and make it where it is missing."""
        if not self._log.table_exists():
            shown = self.database.shown
            try:
                self._create()
            except peewee.DatabaseError as error:
                if self.database.passes(error):
                    raise
                raise MissingTableError(
                    f"There is no table {TABLE} in {shown}, and it could not be made: {error}. "
                    "Run, with a role that may make tables: python -c "
                    "'from magnus_peewee_store import db; db.create_tables(\"<connection string>\")'"
                ) from error
            logger.info("Made the table %s in %s", TABLE, shown)
        columns = self._columns()
        pk = columns["pk"]
        next_pk = None if pk.identity or pk.default else self.database.next_pk()
        largest = self.database.largest_in(columns["attribute_value"])
        self._unique = (UNIQUE, True) in self._indexes()
        self._layout = _Layout(next_pk, largest)

    def _was_completed(self) -> bool:
        """Tell whether the table was completed behind this object's back, and from now on take it as it is."""
        if self._unique:
            return False
        self._forget_layout()
        self._prepare()
        return self._unique

    def _forget_layout(self) -> None:
        self._layout = None
        self._unique = False
        self._statements.clear()

    def _create(self) -> List[str]:
        # In one transaction: nobody sees the table without the index that an upsert needs.
        with self.database.holding(TABLE):
            missing = self._missing()
            self._log._meta.table_settings = self.database.table_settings
            new_pk = self.database.new_pk()
            if new_pk:
                self._log.pk.field_type = new_pk
            # Without its indexes: of a table that others made, duplicates may stand in their way.
            self._log._schema.create_table()
            if (UNIQUE, True) not in self._indexes():
                self._check_duplicates()
            if not self.database.table_is_complete(self._columns()):
                self.database.complete_table(TABLE)
            for columns, unique in self._missing_indexes():
                fields = [getattr(self._log, name) for name in columns]
                index = peewee.ModelIndex(self._log, fields, unique=unique)
                self.database.execute(self._log._schema._create_index(index, safe=False))
            return missing

    def _missing(self) -> List[str]:
        if not self._log.table_exists():
            return [f"the table {TABLE}"]
        columns = [] if self.database.table_is_complete(self._columns()) else [f"the column types of {TABLE}"]
        return columns + [
            f"the {'unique ' if unique else ''}index over {', '.join(columns)}"
            for columns, unique in self._missing_indexes()
        ]

    def _duplicates(self) -> Dict[str, int]:
        log = self._log
        exact = [self.database.exactly(getattr(log, name)) for name in UNIQUE]
        groups = log.select(fn.MIN(log.run_id), fn.COUNT(log.pk)).group_by(*exact).having(fn.COUNT(log.pk) > 1)
        surplus: Dict[str, int] = {}
        for run_id, count in groups.tuples():
            surplus[run_id] = surplus.get(run_id, 0) + count - 1
        return surplus

    def _check_duplicates(self) -> None:
        surplus = self._duplicates()
        if surplus:
            runs = ", ".join(f"{run_id} ({count})" for run_id, count in sorted(surplus.items())[:10])
            raise DuplicateRowsError(
                f"The table {TABLE} in {self.database.shown} has {sum(surplus.values())} rows too many, of "
                f"{len(surplus)} runs: {runs}{', ...' if len(surplus) > 10 else ''}. Others wrote them twice. Of rows "
                "that agree in run_id, attribute_type and attribute_key, keep the newest by created_at, delete the "
                "rest, and run create_tables again. Nothing was changed."
            )

    def _columns(self) -> Any:
        return {column.name: column for column in self.database.get_columns(TABLE)}

    def _indexes(self) -> Any:
        return {(tuple(index.columns), index.unique) for index in self.database.get_indexes(TABLE)}

    def _missing_indexes(self) -> Any:
        present = self._indexes()
        return [index for index in INDEXES if index not in present]

    def _holding(self, run_id: str) -> Any:
        return self.database.atomic() if self._unique else self.database.holding(run_id)

    @property
    def _next_pk(self) -> Dict[str, Any]:
        return {"pk": self._layout.next_pk} if self._layout and self._layout.next_pk else {}

    def _exact(self, column: Any) -> Any:
        return column if self._unique else self.database.exactly(column)

    def _is(self, column: Any, value: Any) -> Any:
        return self._exact(column) == value

    def _of(self, run_id: Any, types: Optional[Sequence[str]] = None, name: Any = None) -> Any:
        log = self._log
        rows = log.select().where(self._is(log.run_id, run_id))
        if types is not None:
            rows = rows.where(log.attribute_type.in_(types))
        if name is not None:
            rows = rows.where(self._is(log.attribute_key, name))
        return rows

    def _read(self, run_id: str, key: Optional[Key], locked: bool = False) -> List[Row]:
        types, name = key or (None, None)
        statement = self._select(types, name is not None, locked and bool(self.database.for_update))
        return list(statement.run(run_id=run_id, name=name).fetchall())

    @written_once
    def _select(self, types: Optional[Tuple[str, ...]], named: bool, locked: bool) -> Any:
        log = self._log
        rows = self._of(given("run_id"), types, given("name") if named else None)
        # An expression, or SQLite would walk the whole run in order of created_at to save itself the sort of a few.
        created_at = log.created_at if types is None else fn.COALESCE(log.created_at, log.created_at)
        rows = rows.select(log.attribute_type, log.attribute_key, log.attribute_value).order_by(created_at, log.pk)
        return rows.for_update() if locked else rows

    def _has(self, run_id: str, key: Key) -> bool:
        types, name = key
        return self._select_one(types, name is not None).run(run_id=run_id, name=name).fetchone() is not None

    @written_once
    def _select_one(self, types: Optional[Tuple[str, ...]], named: bool) -> Any:
        return self._of(given("run_id"), types, given("name") if named else None).select(self._log.pk).limit(1)

    @_persistently
    def _read_after(self, pk: int, size: int) -> List[Any]:
        log = self._log
        return list(log.select(log.pk, *self._stored).where(log.pk > pk).order_by(log.pk).limit(size).tuples())

    def _insert_past_newest(self, required: Sequence[Optional[Tuple[str, ...]]] = (), many: bool = False) -> Any:
        """INSERT with a created_at past all that the run has, and only where the run has what is required."""
        log = self._log
        # A scalar, or SQLite would walk the whole run for it.
        newest = log.select(fn.MAX(log.created_at)).where(self._is(log.run_id, given("run_id")))
        if many:
            rows, place, row = self.database.rows_in(given("rows"))
        else:
            rows, place, row = None, 0, [given("kind"), given("name"), given("value")]
        created_at = self.database.next_instant(given("now"), newest, place)
        fields = [log.run_id, log.attribute_type, log.attribute_key, log.attribute_value, log.created_at]
        source = peewee.Select([rows] if rows else [], [given("run_id"), *row, created_at, *self._next_pk.values()])
        # Without a WHERE, SQLite takes ON CONFLICT for a join's ON (https://www.sqlite.org/lang_upsert.html, 2.2).
        source = source.where(peewee.SQL("1 = 1"))
        if many:
            source = source.order_by(*row[:2])  # in which two such statements do not deadlock
        for number, types in enumerate(required):
            source = source.where(fn.EXISTS(self._of(given("run_id"), types, given(f"required_{number}"))))
        return log.insert_from(source, [*fields, *(getattr(log, name) for name in self._next_pk)]).returning()

    @written_once
    def _insert(self) -> Any:
        return self._insert_past_newest()

    @written_once
    def _insert_or_update(self, required: Sequence[Optional[Tuple[str, ...]]], many: bool) -> Any:
        insert = self._insert_past_newest(required, many)
        unique = [getattr(self._log, name) for name in UNIQUE] if self.database.conflict_target else None
        return insert.on_conflict(conflict_target=unique, preserve=[self._log.attribute_value])

    def _run_insert(self, now: datetime.datetime, run_id: str, row: Row) -> None:
        kind, name, value = row
        self._insert().run(now=str(now), run_id=run_id, kind=kind, name=name, value=value)

    @_persistently
    def _insert_new(self, run_id: str, row: Row, now: datetime.datetime, earlier_tries: Iterator[int]) -> bool:
        again = next(earlier_tries) > 0
        key = ((row[0],), row[1])
        self._check_size(run_id, row)
        try:
            if self._unique:
                self._run_insert(now, run_id, row)
                return True
            with self._holding(run_id):
                if not self._has(run_id, key):
                    self._run_insert(now, run_id, row)
                    return True
        except peewee.IntegrityError:
            if not self._has(run_id, key):
                raise
        # It is another's; or this call's own, if the connection died before an earlier try was acknowledged.
        return again and self._is_stored(run_id, row, now)

    def _is_stored(self, run_id: str, row: Row, created_at: Optional[datetime.datetime] = None) -> bool:
        log = self._log
        present = self._of(run_id, (row[0],), row[1]).where(log.attribute_value == row[2])
        if created_at:
            present = present.where(log.created_at == created_at)
        return bool(present.exists())

    @_persistently
    def _insert_run(self, rows: Sequence[StoredRow], earlier_tries: Iterator[int]) -> bool:
        again = next(earlier_tries) > 0
        first = rows[0]
        any_row = (None, None)
        try:
            with self._holding(first.run_id):
                if not self._has(first.run_id, any_row):
                    for row in rows:
                        self._check_size(row.run_id, row[1:4])
                        self._insert_stored().run(**row._asdict())
                    return True
        except peewee.IntegrityError:
            if not self._has(first.run_id, any_row):
                raise
        # As in `_insert_new`.
        return again and self._is_stored(first.run_id, first[1:4], first.created_at)

    @written_once
    def _insert_stored(self) -> Any:
        values = {field.name: given(field.name) for field in self._stored}
        return self._log.insert(**values, **self._next_pk).returning()

    def _batches(self, rows: Sequence[Row]) -> List[Sequence[Row]]:
        """Divide rows into what one statement writes, each but once: PostgreSQL refuses it twice."""
        rows = list({row[:2]: row for row in rows}.values())
        if not (self._unique and self.database.reads_json):
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

    def _upsert(self, run_id: str, rows: Sequence[Row], requires: Sequence[Key] = ()) -> bool:
        """Write a batch."""
        for row in rows:
            self._check_size(run_id, row)
        if not self._unique:
            return all(self._update_or_insert(run_id, row) for row in rows)
        required = tuple(types for types, _ in requires)
        values: Dict[str, Any] = {f"required_{number}": name for number, (_, name) in enumerate(requires)}
        if len(rows) == 1:
            values["kind"], values["name"], values["value"] = rows[0]
        else:
            values["rows"] = json.dumps(rows, ensure_ascii=False)
        statement = self._insert_or_update(required, len(rows) > 1)
        cursor = statement.run(run_id=run_id, now=str(utcnow()), **values)
        # MySQL does not count a row that had the value already.
        return cursor.rowcount > 0 or all(self._is_stored(run_id, row) for row in rows)

    def _update_or_insert(self, run_id: str, row: Row) -> bool:
        log = self._log
        keys = [pk for (pk,) in self._of(run_id, (row[0],), row[1]).select(log.pk).tuples()]
        if keys:
            log.update(attribute_value=row[2]).where(log.pk.in_(keys)).execute()
        else:
            self._run_insert(utcnow(), run_id, row)
        return True

    def _check_size(self, run_id: str, row: Row) -> None:
        size = len(row[2])
        packet = self.database.largest_value
        if packet:
            # MySQL's drivers put a backslash before each of these; the rest of the statement needs room, too.
            sent = size + sum(row[2].count(character) for character in "\"'\\") + 8192
            if sent > packet:
                raise _too_large(
                    run_id,
                    row,
                    f"{sent} as they are sent, of which the server of {self.database.shown} takes {packet}: "
                    "raise its max_allowed_packet",
                )
        column = self._layout and self._layout.largest
        if column and size > column:
            raise _too_large(
                run_id,
                row,
                f"the table {TABLE} in {self.database.shown} takes {column}: run create_tables, which makes room",
            )


def _too_large(run_id: str, row: Row, limit: str) -> peewee.DataError:
    return peewee.DataError(f"The {row[0]} {row[1]} of the run {run_id} has {len(row[2])} bytes, and {limit}")


def _bound_to(database: ManagedDatabase) -> Any:
    """A model of the table as it is in a database."""
    own = {}
    for name, definition in database.columns.items():
        kind = type(getattr(DBLog, name))
        own[name] = type(kind.__name__, (kind,), {"field_type": definition})()
    meta: Dict[str, Any] = {"database": database, "table_name": TABLE}
    if database.indexes_in_table:
        meta["indexes"] = ()
        meta["constraints"] = [
            peewee.SQL(f"{'UNIQUE ' if unique else ''}INDEX ({', '.join(columns)})") for columns, unique in INDEXES
        ]
    return type("DBLog", (DBLog,), {"Meta": type("Meta", (), meta), **own})

"""The table `db_log`: its definition, its making, and the reading and writing of its rows."""

import datetime
import functools
import logging
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple, TypeVar

import peewee
from peewee import fn

from magnus_peewee_store.connection import ManagedDatabase, make_database

logger = logging.getLogger("magnus.db")

Row = Tuple[str, str, str]  # attribute_type, attribute_key, attribute_value
Key = Tuple[Sequence[str], Optional[str]]  # any of these attribute_types; attribute_key, or None for any

T = TypeVar("T")


def utcnow() -> datetime.datetime:
    """Tell the time in UTC, without a time zone, as `created_at` holds it.

    Returns:
        The time by this machine's clock.
    """
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


class DBLog(peewee.Model):
    """A row of `db_log`: one fragment of a run log. Bound to no database; a `LogTable` works on a model of its own."""

    pk = peewee.AutoField(sequence="id_seq")
    run_id = peewee.TextField()
    attribute_key = peewee.TextField()
    attribute_type = peewee.TextField()
    attribute_value = peewee.TextField()
    created_at = peewee.DateTimeField(default=utcnow)

    class Meta:
        table_name = "db_log"
        indexes = (
            (("run_id", "attribute_type", "attribute_key"), True),
            # The newest row of a run, at every insert.
            (("run_id", "created_at"), False),
        )


def create_tables(connection_string: str) -> None:
    """Make the table `db_log` with its indexes in a database, or add to it what is missing. It can be repeated.

    Args:
        connection_string: The connection string of the database, placeholders filled in.

    Raises:
        ConnectionStringError: If the connection string is not one.
        peewee.OperationalError: If the database cannot be reached, or the role may not make tables.

    Example:
        >>> from magnus_peewee_store import db
        >>> db.create_tables("sqlite:///:memory:")
    """
    table = LogTable(make_database(connection_string))
    try:
        table.create()
    finally:
        table.close()


class MissingTableError(peewee.OperationalError):
    """The table is not there, and could not be made; the message says how to make it."""


def _exclusively(method: Callable[..., T]) -> Callable[..., T]:
    """Let one thread at a time into a method of `LogTable`, and none before the table is there."""

    @functools.wraps(method)
    def wrapped(table: "LogTable", *args: Any, **kwargs: Any) -> T:
        with table.database.lock:
            table.prepare()
            return method(table, *args, **kwargs)

    return wrapped


class LogTable:
    """The rows of `db_log` in one database.

    Args:
        database: The database. It is connected to, and the table made if it is missing, when a row is first asked for.
    """

    def __init__(self, database: ManagedDatabase) -> None:
        self.database = database
        self._log = _bound_to(database)
        self._prepared = False
        if isinstance(database, peewee.SqliteDatabase):
            database.register_function(_next_instant, "next_instant", 2)

    @_exclusively
    def insert(self, run_id: str, row: Row) -> bool:
        """Write a row, unless the run has one of its type and key.

        Args:
            run_id: The run.
            row: The row.

        Returns:
            Whether it was written.
        """
        query = self._insert(run_id, row).on_conflict(action="nothing", conflict_target=self._unique())
        return bool(query.as_rowcount().execute())

    @_exclusively
    def upsert(self, run_id: str, rows: Sequence[Row], requires: Sequence[Key] = ()) -> bool:
        """Write rows, all or none, each over the one that the run has of its type and key.

        Args:
            run_id: The run.
            rows: The rows.
            requires: What the run must have for the rows to be written.

        Returns:
            Whether they were written.
        """
        if len(rows) == 1:
            return self._upsert(run_id, rows[0], requires)
        with self.database.atomic():
            return all(self._upsert(run_id, row, requires) for row in rows)

    @_exclusively
    def update(self, run_id: str, key: Key, change: Callable[[str], str]) -> bool:
        """Change the value of a row, with nobody else's change lost in between.

        Args:
            run_id: The run.
            key: Which row.
            change: Makes the new value of the present one.

        Returns:
            Whether there is such a row.
        """
        with self.database.atomic():
            query = self._select(run_id, key)
            rows = list((query.for_update() if self.database.for_update else query).tuples())
            return bool(rows) and self._upsert(run_id, (*rows[-1][:2], change(rows[-1][2])))

    @_exclusively
    def read(self, run_id: str, key: Optional[Key] = None) -> List[Row]:
        """Read rows of a run.

        Args:
            run_id: The run.
            key: Which rows: all of the run if None.

        Returns:
            The rows, oldest first.
        """
        return list(self._select(run_id, key).tuples())

    @_exclusively
    def has(self, run_id: str, key: Key) -> bool:
        """Tell whether a run has a row.

        Args:
            run_id: The run.
            key: Which row.

        Returns:
            Whether it has.
        """
        return bool(self._of(run_id, key).exists())

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self.database.lock:
            self.database.close()

    def create(self) -> None:
        """Make the table with its indexes, or add to it what is missing."""
        # In one transaction: nobody sees the table without the index that an upsert needs.
        with self.database.lock, self.database.atomic():
            self._log.create_table()

    def prepare(self) -> None:
        """Make the table where it is missing.

        Raises:
            MissingTableError: If it is missing and cannot be made.
        """
        if self._prepared:
            return
        if not self._log.table_exists():
            shown = self.database.shown
            try:
                self.create()
            except peewee.DatabaseError as error:
                raise MissingTableError(
                    f"There is no table db_log in {shown}, and it could not be made: {error}. "
                    "Run, with a role that may make tables: python -c "
                    "'from magnus_peewee_store import db; db.create_tables(\"<connection string>\")'"
                ) from error
            logger.info("Made the table db_log in %s", shown)
        self._prepared = True

    def _of(self, run_id: str, key: Key) -> Any:
        log = self._log
        types, name = key
        rows = log.select().where(log.run_id == run_id, log.attribute_type.in_(types))
        return rows if name is None else rows.where(log.attribute_key == name)

    def _select(self, run_id: str, key: Optional[Key]) -> Any:
        log = self._log
        if key is None:
            rows = log.select().where(log.run_id == run_id).order_by(log.created_at, log.pk)
        else:
            # An expression, or SQLite would walk the whole run in order of created_at to save itself the sort.
            rows = self._of(run_id, key).order_by(fn.COALESCE(log.created_at, log.created_at), log.pk)
        return rows.select(log.attribute_type, log.attribute_key, log.attribute_value)

    def _insert(self, run_id: str, row: Row, requires: Iterable[Key] = ()) -> Any:
        """INSERT with a created_at past all that the run has, and only where the run has what is required."""
        log = self._log
        newest = log.select(fn.MAX(log.created_at).alias("created_at")).where(log.run_id == run_id).alias("newest")
        values = [peewee.Value(value) for value in (run_id, *row)]
        source = peewee.Select([newest], [*values, fn.next_instant(utcnow(), newest.c.created_at)])
        # Without a WHERE, SQLite takes ON CONFLICT for a join's ON (https://www.sqlite.org/lang_upsert.html, 2.2).
        source = source.where(peewee.SQL("1 = 1"))
        for key in requires:
            source = source.where(fn.EXISTS(self._of(run_id, key)))
        columns = [log.run_id, log.attribute_type, log.attribute_key, log.attribute_value, log.created_at]
        return log.insert_from(source, columns)

    def _upsert(self, run_id: str, row: Row, requires: Iterable[Key] = ()) -> bool:
        query = self._insert(run_id, row, requires).on_conflict(
            conflict_target=self._unique(), preserve=[self._log.attribute_value]
        )
        return bool(query.as_rowcount().execute())

    def _unique(self) -> List[peewee.Field]:
        log = self._log
        return [log.run_id, log.attribute_type, log.attribute_key]


def _bound_to(database: peewee.Database) -> Any:
    meta = type("Meta", (), {"database": database, "table_name": DBLog._meta.table_name})
    pk = peewee.AutoField(sequence=DBLog.pk.sequence if database.sequences else None)
    return type("DBLog", (DBLog,), {"Meta": meta, "pk": pk})


def _next_instant(now: str, newest: Optional[str]) -> str:
    """The SQL function `next_instant`, where SQLite's own arithmetic stops at milliseconds."""
    if newest is None or now > newest:
        return now
    return str(datetime.datetime.fromisoformat(newest) + datetime.timedelta(microseconds=1))

"""The databases: each with its own settings, SQL and faults; all with one connection that outlives forks and faults."""

import contextlib
import ctypes
import datetime
import logging
import os
import random
import sqlite3
import threading
import time
import weakref
from typing import Any, Callable, ClassVar, Dict, FrozenSet, Iterator, List, Optional, Tuple, TypeVar

import peewee
from peewee import SQL, NodeList, fn

logger = logging.getLogger("magnus.db")

MASK = "***"

RETRY_SECONDS = 60.0
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0

TICK = datetime.timedelta(microseconds=1)

T = TypeVar("T")


class CannotConnectError(peewee.OperationalError):
    """A database that cannot be connected to; the message says which, as it may be shown, and why.

    Args:
        message: The message.
        passing: Whether the reason is of the kind that passes.
    """

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class ManagedDatabase(peewee.Database):
    """What every database of this package has on top of peewee's.

    One connection serves all threads of a process, one at a time; a forked child leaves its parent's alone; a fault
    that passes is waited out; and an error in connecting tells the connection string as it may be shown, no secret.
    """

    settings: ClassVar[Dict[str, Any]] = {"thread_safe": False}
    columns: ClassVar[Dict[str, str]] = {}  # those of the table that are defined otherwise than peewee would
    table_settings: ClassVar[Tuple[str, ...]] = ()
    indexes_in_table = False  # for a database that cannot make a table and its indexes in one transaction
    conflict_target = True  # whether an upsert names its unique columns
    reads_json = True  # whether it has `rows_in`
    largest_value: Optional[int] = None  # in bytes
    extra = ""  # of this package, which brings the driver

    shown = MASK
    hidden: Tuple[str, ...] = ()
    retry_seconds = RETRY_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lock = threading.RLock()
        _databases.add(self)

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Connect, as peewee does.

        Args:
            reuse_if_open: Whether an open connection will do.

        Returns:
            Whether a new connection was opened.

        Raises:
            CannotConnectError: If that fails, for whatever reason.
        """
        if reuse_if_open and not self.is_closed():
            return False
        try:
            self._before_connecting()
            return bool(super().connect())
        except (peewee.PeeweeException, OSError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip()
            for secret in sorted(self.hidden, key=len, reverse=True):
                reason = reason.replace(secret, MASK)
            if isinstance(error, peewee.ImproperlyConfigured):
                reason = f"its driver is not installed. Run: pip install 'magnus-peewee-store[{self.extra}]'"
            passing = self.passes(error)
            self.drop()
            # Not chained: a driver's own words may quote what it was given.
            raise CannotConnectError(f"Cannot connect to {self.shown}: {reason}", passing) from None

    def drop(self) -> None:
        """Close the connection, in whatever state it is."""
        if not self.is_closed():
            connection: Any = self.connection()
            self.dispose()
            with contextlib.suppress(Exception):
                connection.close()

    def persistently(self, work: Callable[[], T]) -> T:
        """Do work, again and again until no passing fault interrupts it.

        Args:
            work: What to do: one statement, or one transaction. Of an interrupted one nobody knows whether it was
                done, so doing it twice must do no harm.

        Returns:
            What the work returns.

        Raises:
            peewee.PeeweeException: If a fault is not of the kind that passes, or does not within `retry_seconds`.
        """
        give_up_at = time.monotonic() + self.retry_seconds
        pause = 0.0
        while True:
            try:
                with self.lock:
                    try:
                        if self.is_closed():
                            self.connect()
                        return work()
                    except peewee.PeeweeException as error:
                        passing = self.passes(error)
                        if passing:
                            self.drop()
                        raise
            except peewee.PeeweeException as error:
                if not passing:
                    raise
                if time.monotonic() + pause > give_up_at:
                    if isinstance(error, CannotConnectError):
                        error.args = (f"{error} (given up after the {self.retry_seconds:g} s of retry_timeout)",)
                    raise
                if not pause:
                    where = "" if isinstance(error, CannotConnectError) else f"{self.shown}: "
                    logger.warning("Waiting up to %g s. %s%s", self.retry_seconds, where, str(error).strip())
            time.sleep(pause)
            # Of many that wait, not all come back at the same time.
            pause = min(2 * pause or FIRST_PAUSE, LONGEST_PAUSE) * random.uniform(0.7, 1.0)  # noqa: S311

    def passes(self, error: Exception) -> bool:
        """Tell whether a fault is of the kind that passes: a server restarts, a session was ended, two deadlock.

        Args:
            error: The error that the fault was raised as.

        Returns:
            Whether it makes sense to try again.
        """
        return isinstance(error, CannotConnectError) and error.passing

    def is_there(self) -> bool:
        """Tell whether there is a database to connect to, where connecting would make one.

        Returns:
            Whether there is.
        """
        return True

    def product(self) -> str:
        """Tell what the database is.

        Returns:
            Its name and version.
        """
        raise NotImplementedError

    def size_of(self, table: str) -> int:
        """Tell how much of the disk a table takes.

        Args:
            table: The name of the table.

        Returns:
            The bytes, its indexes included.
        """
        raise NotImplementedError

    def leave_to_parent(self) -> None:
        """Forget, in a forked child, the connection that belongs to the parent; the next use opens one of its own."""
        self.lock = threading.RLock()
        if self.is_closed():
            return
        # Freed, even at the child's exit, it would close: a server then ends the parent's session, and SQLite
        # forbids it (https://www.sqlite.org/howtocorrupt.html, 2.6). So the child never gives this reference back.
        inherited = self.connection()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
        self.dispose()

    def next_instant(self, now: Any, newest: Any, place: Any) -> Any:
        """Write the time of a new row in SQL: now, or a microsecond past the newest row there is.

        Args:
            now: The time by this machine's clock.
            newest: The time of the newest row; NULL if there is none.
            place: By how many microseconds it is later, since it is one of many; 0 if it is not.

        Returns:
            The expression.
        """
        raise NotImplementedError

    def rows_in(self, document: Any) -> Tuple[Any, Any, List[Any]]:
        """Write in SQL the rows that one JSON text holds: `[[type, key, value], ...]`.

        Args:
            document: The text.

        Returns:
            What stands in FROM; a column that numbers the rows; and their own three.
        """
        raise NotImplementedError

    def next_pk(self) -> Any:
        """Write the next pk in SQL, for a table made by others whose pk has no default: by the sequence `id_seq`.

        Returns:
            The expression.
        """
        return fn.NEXTVAL("id_seq")

    def new_pk(self) -> Optional[str]:
        """Define the column pk of a new table, where what stands in `columns` will not do in this database.

        Returns:
            The definition; None if what stands in `columns` will do.
        """
        return None

    def largest_in(self, column: Any) -> Optional[int]:
        """Tell how large a value a column takes.

        Args:
            column: What peewee tells of the column.

        Returns:
            The size in bytes; None if there is no limit that matters.
        """
        return None

    def exactly(self, column: Any) -> Any:
        """Write in SQL a column of a table made by others, so that it compares byte for byte.

        Args:
            column: The column.

        Returns:
            The expression.
        """
        return column

    @contextlib.contextmanager
    def holding(self, run_id: str) -> Iterator[None]:
        """Enter a transaction that holds a run for itself: for a table that has no unique index to settle a race.

        Args:
            run_id: The run.
        """
        with self.atomic():
            yield

    def table_is_complete(self, columns: Dict[str, Any]) -> bool:
        """Tell whether a table's columns are as `create_tables` makes them.

        Args:
            columns: What peewee tells of the table's columns, by name.

        Returns:
            Whether they are.
        """
        return bool(columns["pk"].identity)

    def complete_table(self, table: str) -> None:
        """Make of the columns of a table what `create_tables` makes them.

        Args:
            table: The name of the table.
        """

    def _before_connecting(self) -> None:
        """Do what a connection needs done first."""


class ManagedSqlite(ManagedDatabase, peewee.SqliteDatabase):
    """SQLite, set up for a crowd of processes, and for an acknowledged write to outlast a power cut."""

    settings = {
        **ManagedDatabase.settings,
        "check_same_thread": False,
        # Others' commits, an fsync each, are waited for by SQLite itself.
        "timeout": RETRY_SECONDS,
        "pragmas": {"synchronous": "full"},
        "lock_type": "IMMEDIATE",
    }
    reads_json = sqlite3.sqlite_version_info >= (3, 38)  # https://www.sqlite.org/json1.html, 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_function(_next_instant, "next_instant")

    def next_instant(self, now: Any, newest: Any, place: Any) -> Any:
        """Leave it to a function, where there is something to add: SQLite's own arithmetic stops at milliseconds."""
        if place:
            return fn.next_instant(now, newest, place)
        return peewee.Case(None, [(newest < now, now)], fn.next_instant(now, newest))

    def rows_in(self, document: Any) -> Tuple[Any, Any, List[Any]]:
        """Take each row for a text of its own."""
        row = [SQL(f"json_extract(given.value, '$[{number}]')") for number in range(3)]
        return NodeList((fn.json_each(document), SQL("AS given"))), SQL("given.key"), row

    def is_there(self) -> bool:
        """Look for the file."""
        return self._in_memory() or os.path.exists(self.database)

    def product(self) -> str:
        """Tell the version of the library, which is all there is of a server."""
        return f"SQLite {sqlite3.sqlite_version}"

    def size_of(self, table: str) -> int:
        """Take the file for the table, which is all that stands in it, and what was freed."""
        [[size]] = self.execute_sql("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchall()
        return int(size)

    def leave_to_parent(self) -> None:
        """Leave the parent its connection, except to a database in memory: that one was copied by the fork."""
        if self._in_memory():
            self.lock = threading.RLock()
        else:
            super().leave_to_parent()

    def _in_memory(self) -> bool:
        return bool(self.database == ":memory:")

    def _before_connecting(self) -> None:
        if not self._in_memory():
            os.makedirs(os.path.dirname(self.database), exist_ok=True)

    def _initialize_connection(self, connection: sqlite3.Connection) -> None:
        give_up_at = time.monotonic() + self.timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                if "readonly" in str(error):
                    return  # It can still be read from.
                # While others make the same switch, SQLite answers 'locked' at once, whatever the busy timeout.
                if "locked" not in str(error) or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.01)


class ManagedPostgresql(ManagedDatabase, peewee.PostgresqlDatabase):
    """PostgreSQL, by psycopg 3 or psycopg2."""

    settings = {
        **ManagedDatabase.settings,
        # A machine that is gone, rather than a server, is noticed within a minute, not after hours.
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        # Who waited for a lock must see what its holder wrote, whatever the server's default is.
        "isolation_level": "READ COMMITTED",
    }
    # An identity, not a serial: a role needs no right to the sequence to write rows.
    columns = {"pk": "INTEGER GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME id_seq)"}
    extra = "postgres"

    # https://www.postgresql.org/docs/current/errcodes-appendix.html
    PASSING: ClassVar[FrozenSet[str]] = frozenset(
        {
            "25006",  # read_only_sql_transaction: a standby, for the time of a failover
            "25P03",  # idle_in_transaction_session_timeout
            "40001",  # serialization_failure
            "40P01",  # deadlock_detected
            "53300",  # too_many_connections
            "55P03",  # lock_not_available
            "57P01",  # admin_shutdown
            "57P02",  # crash_shutdown
            "57P03",  # cannot_connect_now
            "57P05",  # idle_session_timeout
        }
    )
    # Of a connection that fails there is no code, only words: libpq's, and the server's.
    LASTING_WORDS = ("authentication failed", "does not exist", "no pg_hba.conf entry")
    PASSING_WORDS = (
        "refused",
        "no such file or directory",  # the socket of a server that is not up
        "timeout",
        "timed out",
        "unreachable",
        "reset by peer",
        "closed the connection",
        "could not translate host name",
        "name resolution",
        "failed to resolve host",
        "starting up",
        "shutting down",
        "not yet accepting connections",
        "recovery mode",
        "too many",
        "remaining connection slots",
        "session is read-only",
        "session is not read-only",
        "server is not in hot standby mode",
        "server is in hot standby mode",
    )

    def next_instant(self, now: Any, newest: Any, place: Any) -> Any:
        """Take the greater of the two; PostgreSQL's GREATEST passes over NULL."""
        first = fn.GREATEST(now, NodeList((newest, SQL("+ INTERVAL '1 microsecond'"))))
        return NodeList((first, SQL("+ INTERVAL '1 microsecond' *"), place)) if place else first

    def rows_in(self, document: Any) -> Tuple[Any, Any, List[Any]]:
        """Take each row for a JSON value."""
        rows = NodeList((fn.json_array_elements(document.cast("json")), SQL("WITH ORDINALITY AS given(value, place)")))
        return rows, SQL("given.place"), [SQL(f"given.value ->> {number}") for number in range(3)]

    def new_pk(self) -> Optional[str]:
        """Leave the sequence's name to PostgreSQL if another, as a table that was dropped leaves it, has it."""
        return "INTEGER GENERATED BY DEFAULT AS IDENTITY" if self.sequence_exists("id_seq") else None

    @contextlib.contextmanager
    def holding(self, run_id: str) -> Iterator[None]:
        """Take an advisory lock of the transaction: it needs no right, and a pooler in between does no harm."""
        with self.atomic():
            self.execute_sql("SELECT pg_advisory_xact_lock(hashtext('db_log'), hashtext(%s))", (run_id,))
            yield

    def passes(self, error: Exception) -> bool:
        """Go by the connection's state, then by the SQLSTATE, and where there is none by the words."""
        if isinstance(error, CannotConnectError):
            return error.passing
        cause = getattr(error, "orig", None)
        code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        if self.is_closed():
            text = str(error).lower()
            lasting = any(words in text for words in self.LASTING_WORDS)
            return code in self.PASSING or (not lasting and any(words in text for words in self.PASSING_WORDS))
        connection: Any = self.connection()
        return bool(connection.closed) or code in self.PASSING

    def product(self) -> str:
        """Ask the server."""
        [[version]] = self.execute_sql("SHOW server_version").fetchall()
        return f"PostgreSQL {version}"

    def size_of(self, table: str) -> int:
        """Ask the server."""
        [[size]] = self.execute_sql("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchall()
        return int(size)

    def complete_table(self, table: str) -> None:
        """Give pk its default."""
        if self.sequence_exists("id_seq"):
            self.execute_sql(f"ALTER TABLE {table} ALTER pk SET DEFAULT nextval('id_seq')")
        else:
            self.execute_sql(f"ALTER TABLE {table} ALTER pk ADD {self.columns['pk'].partition(' ')[2]}")
            self.execute_sql(f"SELECT setval('id_seq', COALESCE(MAX(pk), 0) + 1, false) FROM {table}")  # noqa: S608

    def table_is_complete(self, columns: Dict[str, Any]) -> bool:
        """Tell whether pk has a default."""
        return bool(columns["pk"].identity or columns["pk"].default)

    def _initialize_connection(self, connection: Any) -> None:
        if hasattr(connection, "prepare_threshold"):
            # A pooler hands the next statement to another session, which knows no statement that this one prepared.
            # It gives itself away: the session is not the one that answered when the connection was opened.
            [session] = connection.execute("SELECT pg_backend_pid()").fetchone()
            if session != connection.info.backend_pid:
                connection.prepare_threshold = None


class ManagedMySQL(ManagedDatabase, peewee.MySQLDatabase):
    """MariaDB and MySQL."""

    settings = {**ManagedDatabase.settings, "connect_timeout": 10}
    # An index of InnoDB's holds 3,072 bytes, and a character of utf8mb4 has up to 4:
    # https://dev.mysql.com/doc/refman/8.0/en/innodb-limits.html
    columns = {
        "run_id": "VARCHAR(240)",
        "attribute_key": "VARCHAR(512)",
        "attribute_type": "VARCHAR(16)",
        "attribute_value": "LONGTEXT",
        "created_at": "DATETIME(6)",
    }
    indexes_in_table = True
    conflict_target = False
    extra = "mysql"

    # https://mariadb.com/kb/en/mariadb-error-codes/ and
    # https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html
    PASSING: ClassVar[FrozenSet[int]] = frozenset(
        {
            1020,  # record has changed since last read, from MariaDB with innodb_snapshot_isolation
            1040,  # too many connections
            1047,  # a node of a cluster is not ready
            1053,  # server shutdown in progress
            1061,  # an index that another node of a cluster has just made
            1203,  # the user has too many connections
            1205,  # lock wait timeout
            1213,  # deadlock, also between nodes
            1226,  # the user is past a limit of connections
            1290,  # read-only, for the time of a failover
            1317,  # query interrupted
            1467,  # the next pk could not be read, as it happens to one of two that deadlock
            1684,  # a table whose definition another session is changing
            1836,  # read-only mode
            1927,  # connection was killed
            2002,  # cannot connect through the socket
            2003,  # cannot connect to the host
            2005,  # unknown host
            2006,  # server has gone away
            2013,  # lost connection during a query
            2055,  # lost connection
            3032,  # offline mode
            3101,  # nodes of Group Replication collided, and this one rolled back
            4031,  # disconnected because of inactivity
        }
    )
    # These numbers stand for lasting errors as well as for transient ones. The text tells which.
    COMMIT_FAILED = 1180
    DEADLOCK_AT_COMMIT = "error 149"  # from Group Replication, HA_ERR_LOCK_DEADLOCK; a full disk is 1180, too
    CANNOT_CONNECT = 2003
    UNTRUSTED_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"  # PyMySQL reports it as 2003

    @property
    def reads_json(self) -> bool:  # type: ignore[override]
        """Go by the version: https://mariadb.com/kb/en/json_table/."""
        return bool(self.server_version >= (10, 6) or self.server_version < (10,))

    def next_instant(self, now: Any, newest: Any, place: Any) -> Any:
        """Take the greater of the two; MySQL's GREATEST is NULL if one is."""
        first = fn.GREATEST(now, fn.COALESCE(NodeList((newest, SQL("+ INTERVAL 1 MICROSECOND"))), now))
        return NodeList((first, SQL("+ INTERVAL"), place, SQL("MICROSECOND"))) if place else first

    def rows_in(self, document: Any) -> Tuple[Any, Any, List[Any]]:
        """Let JSON_TABLE take them apart, as texts of any length: the table's own columns refuse what is too long."""
        text = "LONGTEXT CHARACTER SET utf8mb4 PATH"
        columns = f"place FOR ORDINALITY, kind {text} '$[0]', name {text} '$[1]', value {text} '$[2]'"
        rows = NodeList((SQL("JSON_TABLE("), document, SQL(f", '$[*]' COLUMNS ({columns})) AS given")))
        return rows, SQL("given.place"), [SQL("given.kind"), SQL("given.name"), SQL("given.value")]

    def next_pk(self) -> Any:
        """Write it as MariaDB does."""
        return SQL("NEXT VALUE FOR id_seq")

    def largest_in(self, column: Any) -> Optional[int]:
        """Go by the column's type."""
        # https://mariadb.com/kb/en/text/
        return {"tinytext": 255, "text": 65_535, "mediumtext": 16_777_215}.get(column.data_type.lower())

    def product(self) -> str:
        """Ask the server."""
        [[version]] = self.execute_sql("SELECT VERSION()").fetchall()
        return str(version) if "MariaDB" in version else f"MySQL {version}"

    def size_of(self, table: str) -> int:
        """Ask the server, which estimates."""
        [[size]] = self.execute_sql(
            "SELECT data_length + index_length FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_name = %s",
            (table,),
        ).fetchall()
        return int(size)

    def exactly(self, column: Any) -> Any:
        """Compare by code points, and spaces at the end too, whatever the collation of the column."""
        return NodeList((fn.CONVERT(NodeList((column, SQL("USING utf8mb4")))), SQL(f"COLLATE {self._collation}")))

    @contextlib.contextmanager
    def holding(self, run_id: str) -> Iterator[None]:
        """Take a lock of the server's by name. It does not reach across the nodes of a cluster; a unique index does."""
        name = (f"{self.database} {run_id}",)
        # A name has up to 64 characters. MySQL 9.6 and later have MD5 only as a component to install.
        [[taken]] = self.execute_sql("SELECT GET_LOCK(SHA2(%s, 224), 10)", name).fetchall()
        if not taken:
            raise peewee.OperationalError(1205, f"Another session holds the run {run_id}")
        try:
            with self.atomic():
                yield
        finally:
            with contextlib.suppress(peewee.PeeweeException):  # A session that has ended holds it no more.
                self.execute_sql("SELECT RELEASE_LOCK(SHA2(%s, 224))", name)

    def passes(self, error: Exception) -> bool:
        """Go by the connection's state, then by the error's number."""
        if isinstance(error, CannotConnectError):
            return error.passing
        if not self.is_closed():
            connection: Any = self.connection()
            if not getattr(connection, "open", True):
                return True
        code, text = (error.args[0] if error.args else None), str(error)
        if code == self.COMMIT_FAILED:
            return self.DEADLOCK_AT_COMMIT in text
        if code == self.CANNOT_CONNECT:
            return self.UNTRUSTED_CERTIFICATE not in text
        return code in self.PASSING

    @property
    def table_settings(self) -> Tuple[str, ...]:  # type: ignore[override]
        """Let keys compare byte for byte, whatever the database's default is."""
        return ("ENGINE=InnoDB", "ROW_FORMAT=DYNAMIC", "DEFAULT CHARSET=utf8mb4", f"COLLATE={self._collation}")

    def table_is_complete(self, columns: Dict[str, Any]) -> bool:
        """Tell whether the columns are of the right types."""
        return bool(columns["pk"].identity) and all(
            columns[name].full_type.upper() == definition for name, definition in self.columns.items()
        )

    def complete_table(self, table: str) -> None:
        """Give the columns their types, pk its default, and keys their collation, in one copy of the table."""
        changes = [f"MODIFY {name} {definition} NOT NULL" for name, definition in self.columns.items()]
        self.execute_sql(
            f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE {self._collation}, "
            f"MODIFY pk INTEGER NOT NULL AUTO_INCREMENT, {', '.join(changes)}"
        )

    @property
    def _collation(self) -> str:
        """One that takes neither a and A, nor a and a with a space behind it, for the same."""
        return "utf8mb4_nopad_bin" if self.server_version >= (10,) else "utf8mb4_0900_bin"

    def _initialize_connection(self, connection: Any) -> None:
        cursor = connection.cursor()
        # Locks no gaps between rows, which many writers of one run would deadlock over.
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        # Refuses what a column cannot hold, which a server may be configured to cut off or to garble.
        cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')")
        # Ends a deadlock that InnoDB does not detect, as between a row lock and the AUTO-INC lock, within seconds.
        cursor.execute("SET SESSION innodb_lock_wait_timeout = 5")
        names = "'innodb_snapshot_isolation', 'max_allowed_packet', 'wsrep_on'"
        cursor.execute(f"SHOW VARIABLES WHERE Variable_name IN ({names})")
        variables = {str(name).lower(): value for name, value in cursor.fetchall()}
        self.largest_value = int(variables["max_allowed_packet"])
        if variables.get("innodb_snapshot_isolation") == "ON":
            # MariaDB 11.6.2 and later: it fails writers with error 1020, at READ COMMITTED too.
            # https://mariadb.com/kb/en/innodb-system-variables/#innodb_snapshot_isolation
            cursor.execute("SET SESSION innodb_snapshot_isolation = OFF")
        if variables.get("wsrep_on") == "ON":
            # Every statement sees what any node of the cluster has acknowledged before it.
            cursor.execute("SET SESSION wsrep_sync_wait = 7")
        cursor.close()


_databases: "weakref.WeakSet[ManagedDatabase]" = weakref.WeakSet()


def _leave_connections_to_parent() -> None:
    for database in _databases:
        database.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_connections_to_parent)


def _next_instant(now: str, newest: Optional[str], place: int = 0) -> str:
    """The SQL function `next_instant` of SQLite, on times as its columns hold them."""
    if newest is not None and now <= newest:
        now, place = newest, place + 1
    return str(datetime.datetime.fromisoformat(now) + place * TICK) if place else now

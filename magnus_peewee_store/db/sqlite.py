"""SQLite: many processes of one machine write to one file."""

import contextlib
import logging
import operator
import os
import threading
import time
from datetime import datetime
from typing import Any, Callable, List, Optional, Sequence, Tuple, TypeVar, Union

import peewee
from peewee import SQL, NodeList, fn

from magnus_peewee_store.db.base import Backend
from magnus_peewee_store.db.files import SIDE_FILES, ReadGuard, advise_owner, identity, may_write, network_type
from magnus_peewee_store.exceptions import (
    ConfigurationError,
    CorruptFileError,
    MissingTableError,
    PrivilegeError,
    RunLogStoreError,
)
from magnus_peewee_store.times import utcnow

logger = logging.getLogger("magnus.db")

MEMORY = ":memory:"
NOT_UTF_8 = "Could not decode to UTF-8"  # begins an error of Python's driver
# What a reader gets while a writer creates or recovers the side files: https://www.sqlite.org/rescode.html.
UNFINISHED = ("SQLITE_READONLY_CANTINIT", "SQLITE_READONLY_RECOVERY", "SQLITE_READONLY_CANTLOCK")
# How many seconds SQLite itself waits for a lock. Python cannot interrupt this wait, so it is short and `retry` repeats
# it. SQLite's own wait is better than ours: with many writers, each pause in Python costs half of the throughput.
LOCK_WAIT = 1.0

sqlite3: Any = peewee.sqlite3  # type: ignore[attr-defined,unused-ignore]  # pysqlite3 if it is installed
T = TypeVar("T")
NETWORK_FAULTS = ("locking protocol", "disk I/O error", "database is locked")
# Of the texts in a file, sqlite3 decodes only those in SQLite's error messages strictly.
DAMAGES = ("malformed", "is not a database", "can't decode byte")
NETWORK_ADVICE = (
    "Use a server, as in postgresql://user:password@host:5432/database, or a file in a local folder if all "
    "processes run on one machine."
)
# The microseconds since 1970 of a time as text, and back.
_MICROSECONDS = "(STRFTIME('%s', SUBSTR({0}, 1, 19)) * 1000000 + SUBSTR({0} || '000000', 21, 6))"  # %s would round
_AS_TEXT = "STRFTIME('%Y-%m-%d %H:%M:%S', time / 1000000, 'unixepoch') || PRINTF('.%06d', time % 1000000)"


class SqliteBackend(Backend, peewee.SqliteDatabase):
    """SQLite, configured for many writing processes, and for acknowledged writes to survive a power cut."""

    peewee_class = peewee.SqliteDatabase
    field_types = {**peewee.SqliteDatabase.field_types, **Backend.field_types}
    settings = {"check_same_thread": False, "pragmas": {"synchronous": "full"}}
    has_concurrent_writers = False
    longest_pause = 0.05
    has_json_rows = sqlite3.sqlite_version_info >= (3, 38)  # https://www.sqlite.org/json1.html, 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._network_type: Optional[str] = None
        self._guard: Optional[ReadGuard] = None
        self._identity: Optional[Tuple[int, int]] = None
        self._is_lenient = False  # whether to read bytes that are not UTF-8
        self._changes = 0  # how many rows the connection had changed when the file was last looked at
        self._is_outdated = False  # whether the last connection read a file that has changed meanwhile
        super().__init__(*args, lock_type="IMMEDIATE", **kwargs)

    def init(self, database: Optional[str], *args: Any, read_only: bool = False, **kwargs: Any) -> None:
        """Initialize the database as peewee does, with a busy timeout."""
        self._is_read_only = read_only
        super().init(database, *args, **{"timeout": min(self.retry_timeout, LOCK_WAIT), **kwargs})

    def next_created_at(self, now: Any, newest: Any, ordinal: Any) -> Any:
        """Add the microseconds as integers, because SQLite's date functions have a precision of milliseconds.

        This is no function in Python, because SQLite would replace a KeyboardInterrupt in it by an error of its own.
        """
        later = NodeList(
            (
                SQL(f"(SELECT {_AS_TEXT} FROM (SELECT MAX({_MICROSECONDS.format('now')}, "),  # noqa: S608 - constants
                SQL(f"COALESCE({_MICROSECONDS.format('newest')} + 1, 0)) +"),
                ordinal,
                SQL("AS time FROM (SELECT"),
                now,
                SQL("AS now,"),
                newest,
                SQL("AS newest)))"),
            )
        )
        return later if ordinal else peewee.Case(None, [(newest < now, now)], later)

    def json_rows(self, document: Any) -> Tuple[Any, Any, List[Any]]:
        """Use json_each."""
        values = [SQL(f"json_extract(new_rows.value, '$[{number}]')") for number in range(3)]
        return NodeList((fn.json_each(document), SQL("AS new_rows"))), SQL("new_rows.key"), values

    def json_fields(self, document: Any, paths: Sequence[Sequence[Union[str, int]]]) -> Any:
        """Use json_extract, so that Python does not parse the whole document."""
        if not self.has_json_rows:
            return document
        # NaN and Infinity are not valid JSON. json_extract would raise an error for them, or return null.
        values = fn.json_extract(document, *map(json_path, paths))
        return peewee.Case(None, [(fn.json_valid(document), values)], document)

    def exists(self) -> bool:
        """Return True if the file exists."""
        return self._is_in_memory() or os.path.exists(self.database)

    def now(self) -> datetime:
        """Return the time of this machine in UTC. All processes that use the file run on this machine."""
        return utcnow()

    def try_once(self, work: Callable[[], T], timeout: float) -> T:
        """Do as `Backend` does, with a busy timeout of `timeout` seconds."""

        def work_with_timeout() -> T:
            self.execute_sql(f"PRAGMA busy_timeout = {timeout * 1000:.0f}")
            result = work()
            self.execute_sql(f"PRAGMA busy_timeout = {self.timeout * 1000:.0f}")
            return result

        return super().try_once(work_with_timeout, timeout)

    def close(self) -> bool:
        """Close the connection, and then release the lock of a reader."""
        try:
            return super().close()
        finally:
            guard, self._guard = self._guard, None
            if guard:
                self._is_outdated = guard.is_outdated()
                guard.release()

    def _use(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> Tuple[Any, Optional[Exception]]:
        """Do as `Backend` does. A reader's connection lasts for one call, which is repeated if the file has changed.

        A call that reads bytes which are not UTF-8 is repeated, too.
        """
        try:
            found = super()._use(work, *args, **kwargs)
        except (peewee.PeeweeException, RunLogStoreError) as error:
            if not self._is_outdated and (self._is_lenient or NOT_UTF_8 not in str(error)):
                raise
            self._is_lenient = self._is_lenient or NOT_UTF_8 in str(error)
            if not self.is_closed():  # a database in memory
                self._decode_all(self._state.conn)
        else:
            connection = self._state.conn
            if self._guard:
                self.close()
            elif connection is not None and connection.total_changes != self._changes:
                self._check_file()
            if not self._is_outdated:
                return found
        self._is_outdated = False
        return self._use(work, *args, **kwargs)

    def _decode_all(self, connection: Any) -> None:
        """Read bytes that are not UTF-8, too, of which `fragments.parse` says that the row cannot be read."""
        if self._is_lenient:  # It takes longer.
            connection.text_factory = operator.methodcaller("decode", "utf-8", "surrogateescape")

    def _check_file(self) -> None:
        """Check after a write that the path still leads to the file that was written."""
        self._changes = self._state.conn.total_changes
        if self._identity != identity(self.database):
            self.close()
            raise MissingTableError(
                f"The SQLite file {self.database} was removed or replaced while it was in use. What was written "
                "since then is lost. Start a new run, or restore a backup."
            )

    def is_transient(self, error: Exception) -> bool:
        """Return True if another process holds a lock, or is about to create the side files that a reader needs."""
        is_locked = isinstance(error, peewee.OperationalError) and "locked" in str(error)
        code = getattr(getattr(error, "orig", None), "sqlite_errorname", "")  # since Python 3.11
        return super().is_transient(error) or is_locked or code in UNFINISHED

    def rollback(self) -> Any:
        """Roll back, unless SQLite has already done so, as it does when the disk is full."""
        return super().rollback() if self.is_closed() or self.connection().in_transaction else None

    def version_string(self) -> str:
        """Return the version of the SQLite library."""
        return f"SQLite {sqlite3.sqlite_version}"

    def explain(self, error: Exception) -> Optional[RunLogStoreError]:
        """Return an error for a damaged file, or for one on a network file system that failed."""
        if isinstance(error, RunLogStoreError):
            return error
        reason = str(error)
        if any(text in reason for text in ("readonly", "unable to open", "Permission denied")):
            return self._explain_denial(reason)
        if self._network_type and any(text in reason for text in NETWORK_FAULTS):
            return ConfigurationError(
                f"The SQLite file of {self.masked_url} lies on a network file system ({self._network_type}), which "
                f"failed: {reason}. {NETWORK_ADVICE}"
            )
        return self._damage(reason) if any(text in reason for text in DAMAGES) else None

    def check_file(self) -> None:
        """Run SQLite's own check of the file."""
        [[result]] = self.execute_sql("PRAGMA quick_check(1)").fetchall()
        if result != "ok":
            raise self._damage(result)

    def _damage(self, reason: str) -> CorruptFileError:
        return CorruptFileError(
            f"The SQLite file of {self.masked_url} is damaged, or is no SQLite file: {reason}. Restore a backup, or "
            "recover its rows with SQLite's own shell: sqlite3 FILE .recover | sqlite3 RECOVERED_FILE"
        )

    def _explain_denial(self, reason: str) -> Optional[PrivilegeError]:
        """Return an error that names the file or folder that this user may not write, and its owner."""
        if self._is_read_only:
            return PrivilegeError(f"The connection string of {self.database} says ?mode=ro: {reason}.")
        paths = (self.database, *(self.database + suffix for suffix in SIDE_FILES), os.path.dirname(self.database))
        for path in paths:
            if os.path.lexists(path) and not may_write(path):
                return PrivilegeError(f"{self.database}: {reason}. {advise_owner(path)}")
        return None

    def binary(self, column: Any) -> Any:
        """Use the collation BINARY, whatever collation the column has."""
        return NodeList((column, SQL("COLLATE BINARY")))

    def discard_inherited_connection(self) -> None:
        """Discard the connection to a file. Keep a database in memory: the fork has copied it."""
        if self._is_in_memory():
            self.lock = threading.RLock()
        else:
            super().discard_inherited_connection()
            if self._guard:
                self._guard.release()
                self._guard = None

    def _close(self, conn: Any) -> None:
        """Roll back first: SQLite keeps the lock of a closed connection until its last statement is gone."""
        with contextlib.suppress(sqlite3.Error):
            conn.rollback()
        conn.close()

    def _drop(self) -> None:
        """Roll back in a database in memory, because closing would delete it."""
        if self._is_in_memory() and not self.is_closed():
            self._state.conn.rollback()
            self._state.set_connection(self._state.conn)
            self._is_idle = True
        else:
            super()._drop()

    def _update_target(self) -> bool:
        """Keep the file of the first connection, even if the working directory changes later."""
        return False

    def _is_in_memory(self) -> bool:
        return bool(self.database == MEMORY)

    def _connect(self) -> Any:
        if self._guard is None:
            return super()._connect()  # type: ignore[misc,unused-ignore]
        path, options = self.database, self.connect_params
        self.database, self.connect_params = self._guard.uri, {**options, "uri": True}
        try:
            return super()._connect()  # type: ignore[misc,unused-ignore]
        finally:
            self.database, self.connect_params = path, options

    def _before_connecting(self) -> None:
        if not self._is_in_memory():
            folder = os.path.dirname(self.database)
            if self._is_read_only or (self.exists() and not (may_write(self.database) and may_write(folder))):
                self._guard = ReadGuard(self.database, self.timeout)
            else:
                os.makedirs(folder, exist_ok=True)
            if self._network_type is None:
                self._network_type = network_type(folder)
                if self._network_type:
                    logger.warning(
                        "The SQLite file of %s lies on a network file system (%s), where SQLite is slower, and safe "
                        "only if the file system locks files correctly. %s",
                        self.masked_url,
                        self._network_type,
                        NETWORK_ADVICE,
                    )

    def _initialize_connection(self, connection: Any) -> None:
        self._decode_all(connection)
        self._identity, self._changes = identity(self.database), 0
        if self._guard or (self.keeps_journal_mode and not self._network_type):
            return
        # The write-ahead log needs shared memory, so it does not work across machines: https://www.sqlite.org/wal.html
        journal_mode = "delete" if self._network_type else "wal"
        give_up_at = time.monotonic() + self.timeout
        while True:
            try:
                connection.execute(f"PRAGMA journal_mode = {journal_mode}")
                return
            except sqlite3.OperationalError as error:
                # SQLite ignores the busy timeout while another process switches the file's journal mode.
                if "locked" not in str(error) or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.01)


def json_path(path: Sequence[Union[str, int]]) -> str:
    """Return a path in a JSON document as SQLite writes it. Index -1 is the last."""
    return "$" + "".join(map(_path_part, path))


def _path_part(part: Union[str, int]) -> str:
    if isinstance(part, str):
        return f'."{part}"'
    return f"[{part}]" if part >= 0 else f"[#{part}]"

"""SQLite."""

import os
import sqlite3
import threading
import time
from datetime import datetime
from typing import Any, Callable, List, Optional, Tuple, TypeVar

import peewee
from peewee import SQL, NodeList, fn

from magnus_peewee_store.db.backends.base import Backend
from magnus_peewee_store.times import TICK, utcnow

MEMORY = ":memory:"

T = TypeVar("T")


class SqliteBackend(Backend, peewee.SqliteDatabase):
    """SQLite, configured for many writing processes, and for acknowledged writes to survive a power cut."""

    peewee_class = peewee.SqliteDatabase
    field_types = {**peewee.SqliteDatabase.field_types, **Backend.field_types}
    settings = {"check_same_thread": False, "pragmas": {"synchronous": "full"}}
    has_concurrent_writers = False
    has_json_rows = sqlite3.sqlite_version_info >= (3, 38)  # https://www.sqlite.org/json1.html, 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, lock_type="IMMEDIATE", **kwargs)
        self.register_function(_next_created_at, "next_created_at")

    def init(self, database: Optional[str], *args: Any, **kwargs: Any) -> None:
        """Initialize the database as peewee does. SQLite waits for a lock as long as errors are retried."""
        super().init(database, *args, **{"timeout": self.retry_timeout, **kwargs})

    def next_created_at(self, now: Any, newest: Any, ordinal: Any) -> Any:
        """Add microseconds in Python, because SQLite's date functions have a precision of milliseconds."""
        if ordinal:
            return fn.next_created_at(now, newest, ordinal)
        return peewee.Case(None, [(newest < now, now)], fn.next_created_at(now, newest))

    def json_rows(self, document: Any) -> Tuple[Any, Any, List[Any]]:
        """Use json_each."""
        values = [SQL(f"json_extract(new_rows.value, '$[{number}]')") for number in range(3)]
        return NodeList((fn.json_each(document), SQL("AS new_rows"))), SQL("new_rows.key"), values

    def exists(self) -> bool:
        """Return True if the file exists."""
        return self._is_in_memory() or os.path.exists(self.database)

    def now(self) -> datetime:
        """Return the time of this machine in UTC. All processes that use the file run on it."""
        return utcnow()

    def try_once(self, work: Callable[[], T], patience: float) -> T:
        """Do as `Backend` does, with a busy timeout of `patience` seconds."""

        def work_impatiently() -> T:
            self.execute_sql(f"PRAGMA busy_timeout = {patience * 1000:.0f}")
            try:
                return work()
            finally:
                self.execute_sql(f"PRAGMA busy_timeout = {self.timeout * 1000:.0f}")

        return super().try_once(work_impatiently, patience)

    def version_string(self) -> str:
        """Return the version of the SQLite library."""
        return f"SQLite {sqlite3.sqlite_version}"

    def table_size(self, table: str) -> int:
        """Return the size of the whole file."""
        [[size]] = self.execute_sql("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchall()
        return int(size)

    def discard_inherited_connection(self) -> None:
        """Keep a database in memory, which the fork has copied; discard the connection to a file."""
        if self._is_in_memory():
            self.lock = threading.RLock()
        else:
            super().discard_inherited_connection()

    def _update_target(self) -> bool:
        """Keep the file of the first connection: a later change of the working directory must not change it."""
        return False

    def _is_in_memory(self) -> bool:
        return bool(self.database == MEMORY)

    def _before_connecting(self) -> None:
        if not self._is_in_memory():
            os.makedirs(os.path.dirname(self.database), exist_ok=True)

    def _initialize_connection(self, connection: sqlite3.Connection) -> None:
        give_up_at = time.monotonic() + self.timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                if "readonly" in str(error):
                    return  # It can still be read.
                # SQLite ignores the busy timeout while another process switches the file to write-ahead logging.
                if "locked" not in str(error) or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.01)


def _next_created_at(now: str, newest: Optional[str], ordinal: int = 0) -> str:
    """Implement `Backend.next_created_at` on times as SQLite stores them."""
    if newest is not None and now <= newest:
        now, ordinal = newest, ordinal + 1
    return str(datetime.fromisoformat(now) + ordinal * TICK) if ordinal else now

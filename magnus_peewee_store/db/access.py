"""Access to the table `db_log`: create it, connect to it, retry transient errors."""

import datetime
import functools
from typing import Any, Callable, Dict, List, TypeVar

import peewee

from magnus_peewee_store.db.backends import Backend
from magnus_peewee_store.db.queries import Queries
from magnus_peewee_store.db.schema import Schema

T = TypeVar("T")


def retrying(method: Callable[..., T]) -> Callable[..., T]:
    """Decorate a method of a table: create the table if it is missing, and retry transient errors."""

    @functools.wraps(method)
    def wrapped(self: "TableAccess", *args: Any, **kwargs: Any) -> T:
        return self._retry_on_table(lambda attempt: method(self, *args, **kwargs))

    return wrapped


class TableAccess:
    """The table `db_log` of one database. It is created if it is missing, and transient errors are retried.

    Args:
        database: The database. The first use connects to it.
    """

    def __init__(self, database: Backend) -> None:
        self.database = database
        self._schema = Schema(database)
        self._log = self._schema.model
        self._queries: Queries  # set by `_ensure_table`
        self._is_table_ensured = False

    def now(self) -> datetime.datetime:
        """Return the time in UTC by the database's clock, without a time zone."""
        return self.database.retry(lambda attempt: self.database.now())

    def exists(self) -> bool:
        """Return True if the table exists."""
        return self.database.retry(lambda attempt: self._schema.exists())

    def create(self) -> List[str]:
        """Create or complete the table; see `Schema.create`."""
        return self.database.retry(lambda attempt: self._schema.create())

    def missing(self) -> List[str]:
        """Return what `create` would create, one text each."""
        return self.database.retry(lambda attempt: self._schema.missing())

    def duplicates(self) -> Dict[str, int]:
        """Return how many rows of each run violate the unique index."""
        return self.database.retry(lambda attempt: self._schema.duplicates())

    def widen_pk(self) -> str:
        """Return the SQL that widens pk, if half of its numbers are used; see `Schema.widen_pk`."""
        return self.database.retry(lambda attempt: self._schema.widen_pk())

    def version_string(self) -> str:
        """Return the name and version of the database product."""
        return self.database.retry(lambda attempt: self.database.version_string())

    def size(self) -> int:
        """Return the size of the table with its indexes, in bytes."""
        return self.database.retry(lambda attempt: self.database.table_size())

    def close(self) -> None:
        """Close the connection. The next call opens a new one."""
        with self.database.lock:
            self.database.close()
            self._is_table_ensured = False  # A database in memory is deleted with its connection.

    def _retry_on_table(self, work: Callable[[int], T]) -> T:
        """Create the table if it is missing, and run `work`, retrying transient errors."""

        def work_on_table(attempt: int) -> T:
            self._ensure_table()
            had_unique_index = self._has_unique_index
            try:
                return work(attempt)
            except peewee.IntegrityError:
                if had_unique_index:
                    raise
                # Another process may have created the unique index in the meantime.
                self._is_table_ensured = False
                self._ensure_table()
                if not self._has_unique_index:
                    raise
                return work(attempt)

        return self.database.retry(work_on_table)

    def _ensure_table(self) -> None:
        """Create the table if it is missing, and prepare the queries for its layout."""
        if not self._is_table_ensured:
            self._schema.create_if_missing()
            self._queries = Queries(self._log, self._schema.inspect())
            self._is_table_ensured = True

    @property
    def _has_unique_index(self) -> bool:
        return self._queries.layout.has_unique_index

"""The databases that are measured: SQLite files, and servers started with the helpers of the tests."""

import contextlib
import itertools
import re
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple

from magnus_peewee_store import create_tables
from tests.servers import MariaDB, PostgreSQL

RAM_DISK, PSYCOPG2 = "sqlite-on-ram-disk", "postgresql-psycopg2"


class Server(NamedTuple):
    """A kind of server, and the driver that connects to it."""

    title: str
    kind: Any
    settings: Dict[str, str]
    scheme: str
    version: str


# The tests use small servers. These settings are the defaults of the products.
_POSTGRESQL = {"shared_buffers": "128MB"}
_MARIADB = {"innodb_buffer_pool_size": "128M", "innodb_log_file_size": "96M"}
SERVERS = {
    "postgresql": Server("PostgreSQL", PostgreSQL, _POSTGRESQL, "postgresql+psycopg", "SHOW server_version"),
    PSYCOPG2: Server("PostgreSQL", PostgreSQL, _POSTGRESQL, "postgresql+psycopg2", "SHOW server_version"),
    "mariadb": Server("MariaDB", MariaDB, _MARIADB, "mysql+pymysql", "SELECT VERSION()"),
}


class Database(NamedTuple):
    """A database product that runs. It can create any number of new databases."""

    name: str
    """The name on the command line."""
    title: str
    """The name in the table of results."""
    raw_driver_name: str
    version: str
    new_url: Callable[[], str]
    """Creates an empty database and returns its URL."""
    folder: Path
    """A folder for other files."""
    server: Any = None
    """The server of the tests, if it is one."""

    @property
    def clock_of_reads(self) -> Callable[[], float]:
        """SQLite reads in this process, so that CPU time is all the time. Other load on the machine changes it less."""
        return time.process_time if self.name == "sqlite" else time.perf_counter

    def new_url_with_table(self) -> str:
        """Create a database with the table of the store, and return its URL."""
        url = self.new_url()
        create_tables(url)
        return url


@contextlib.contextmanager
def start_database(name: str, folder: Path) -> Iterator[Database]:
    """Yield a database product. A server runs until the end of the context.

    Args:
        name: A key of `SERVERS`, `sqlite`, or `RAM_DISK`.
        folder: A folder for its files.
    """
    if name not in SERVERS:
        numbers = itertools.count()
        title = "SQLite on a RAM disk" if name == RAM_DISK else "SQLite"
        with tempfile.TemporaryDirectory(dir="/dev/shm" if name == RAM_DISK else folder) as files:
            yield Database(
                name,
                title,
                "raw sqlite3",
                sqlite3.sqlite_version,
                lambda: f"sqlite:///{files}/{next(numbers)}.db",
                folder,
            )
        return
    title, kind, settings, scheme, version_query = SERVERS[name]
    server = kind(**settings)
    try:
        server.start()
        [[version]] = server.sql(version_query)
        version = re.split("[ -]", version)[0]  # without the version of the Linux distribution
        driver = scheme.partition("+")[2]
        yield Database(name, title, f"raw {driver}", version, lambda: server.database(scheme).url, folder, server)
    finally:
        server.remove()

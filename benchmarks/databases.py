"""The databases that are measured: SQLite files, and servers started with the helpers of the tests."""

import contextlib
import itertools
import re
import sqlite3
import tempfile
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, Optional
from urllib.parse import urlsplit

from magnus_peewee_store import create_tables
from tests.servers import MariaDB, PostgreSQL, Server

DATABASES = ("sqlite", "postgresql", "mariadb")
RAM_DISK = "sqlite-on-ram-disk"

# Queries that generate the numbers from 0 to {last}.
_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}) "
    "SELECT {columns} FROM numbers",
    "postgresql": "SELECT {columns} FROM generate_series(0, {last}) AS numbers(n)",
    "mysql": "SELECT {columns} FROM (SELECT seq AS n FROM seq_0_to_{last}) AS numbers",
}


def dialect_of(url: str) -> str:
    """Return the dialect of a URL: sqlite, postgresql or mysql."""
    return urlsplit(url).scheme.partition("+")[0]


def now() -> str:
    """Return the time in UTC for created_at, in a format that all drivers accept."""
    return datetime.now(timezone.utc).replace(tzinfo=None).isoformat(" ")


def connect(url: str) -> Any:
    """Connect with the raw driver, in autocommit mode and with the same durability as the store."""
    if dialect_of(url) == "sqlite":
        connection = sqlite3.connect(url[len("sqlite:///") :], timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = full")
        return connection
    parts = urlsplit(url)
    if dialect_of(url) == "postgresql":
        import psycopg

        return psycopg.connect(parts._replace(scheme="postgresql").geturl(), autocommit=True)
    import pymysql

    connection = pymysql.connect(
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        password=parts.password or "",
        database=parts.path[1:],
        autocommit=True,
    )
    # As in the store. The default, REPEATABLE READ, locks gaps between rows, so writers of one run deadlock.
    connection.cursor().execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return connection


def insert_other_runs(url: str, rows: int) -> None:
    """Insert rows of other runs: short values, a thousand rows per run."""
    dialect = dialect_of(url)
    run_id, key = (
        ("CONCAT('other', FLOOR(n / 1000))", "CONCAT('step', n % 1000)")
        if dialect == "mysql"
        else ("'other' || (n / 1000)", "'step' || (n % 1000)")
    )
    value = '{"name": "a step of another run", "status": "SUCCESS"}'
    columns = f"{run_id}, 'Step', {key}, '{value}', '{now()}'"
    if dialect == "postgresql":
        columns += "::timestamp"
    select = _NUMBERS[dialect].format(columns=columns, last=rows - 1)
    with closing(connect(url)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(
            f"INSERT INTO db_log (run_id, attribute_type, attribute_key, attribute_value, created_at) {select}"
        )
        _analyze(cursor, dialect)


def insert_runs(url: str, runs: int, steps: int) -> None:
    """Insert complete runs with some steps each. The runs start one second apart."""
    dialect = dialect_of(url)
    created_at = {
        "sqlite": "datetime('2026-01-01', '+' || ({run}) || ' seconds')",
        "postgresql": "timestamp '2026-01-01' + ({run}) * interval '1 second'",
        "mysql": "timestamp '2026-01-01 00:00:00' + INTERVAL ({run}) SECOND",
    }[dialect]
    header = '{"run_id": "runRUN", "status": "SUCCESS"}'
    step_log = '{"name": "stepSTEP", "internal_name": "stepSTEP", "status": "SUCCESS"}'
    run, step = (f"n DIV {steps}", f"n % {steps}") if dialect == "mysql" else (f"n / {steps}", f"n % {steps}")

    def render_sql(template: str, run: str) -> str:
        """Return an SQL expression that replaces RUN and STEP in the template with their numbers."""
        return f"REPLACE(REPLACE('{template}', 'RUN', {as_text.format(run)}), 'STEP', {as_text.format(step)})"

    as_text = "CAST({} AS CHAR)" if dialect == "mysql" else "CAST({} AS TEXT)"
    rows = {
        runs: (render_sql("runRUN", "n"), "'RunLog'", "'run_log'", render_sql(header, "n"), created_at.format(run="n")),
        runs * steps: (
            render_sql("runRUN", run),
            "'Step'",
            render_sql("stepSTEP", run),
            render_sql(step_log, run),
            created_at.format(run=run),
        ),
    }
    with closing(connect(url)) as connection, closing(connection.cursor()) as cursor:
        for count, columns in rows.items():
            select = _NUMBERS[dialect].format(columns=", ".join(columns), last=count - 1)
            cursor.execute(
                f"INSERT INTO db_log (run_id, attribute_type, attribute_key, attribute_value, created_at) {select}"
            )
        _analyze(cursor, dialect)


def _analyze(cursor: Any, dialect: str) -> None:
    """Update the statistics of the query planner, which servers do by themselves after some time."""
    if dialect != "sqlite":
        cursor.execute("ANALYZE TABLE db_log" if dialect == "mysql" else "VACUUM ANALYZE db_log")


class Database:
    """A database product on this machine. It can create any number of new databases.

    Args:
        name: The name on the command line.
        title: The name in the table of results.
        driver: The name of the raw driver.
        version: The version of the product.
        new_url: Creates an empty database and returns its URL.
        folder: A folder for other files.
        server: The server, if it has one.
    """

    def __init__(
        self,
        name: str,
        title: str,
        driver: str,
        version: str,
        new_url: Callable[[], str],
        folder: Path,
        server: Optional[Server] = None,
    ) -> None:
        self.name = name
        self.title = title
        self.version = version
        self.raw_driver_name = f"raw {driver}"
        self.new_url = new_url
        self.folder = folder
        self.server = server

    def new_url_with_table(self) -> str:
        """Create a database with the table of the store, and return its URL."""
        url = self.new_url()
        create_tables(url)
        return url


@contextlib.contextmanager
def start_database(name: str, folder: Path) -> Iterator[Database]:
    """Yield a database product. A server runs until the end of the context.

    Args:
        name: A name in `DATABASES`, or `RAM_DISK`.
        folder: A folder for its files.
    """
    if name in ("sqlite", RAM_DISK):
        numbers = itertools.count()
        version = sqlite3.sqlite_version
        with tempfile.TemporaryDirectory(dir="/dev/shm" if name == RAM_DISK else folder) as files:
            title = "SQLite on a RAM disk" if name == RAM_DISK else "SQLite"
            yield Database(name, title, "sqlite3", version, lambda: f"sqlite:///{files}/{next(numbers)}.db", folder)
        return
    # The tests use small servers. These settings are the defaults of the products.
    server: Server
    if name == "postgresql":
        server = PostgreSQL(shared_buffers="128MB")
        title, driver, scheme, version_of = "PostgreSQL", "psycopg", "postgresql+psycopg", "SHOW server_version"
    else:
        server = MariaDB(innodb_buffer_pool_size="128M", innodb_log_file_size="96M")
        title, driver, scheme, version_of = "MariaDB", "pymysql", "mysql+pymysql", "SELECT VERSION()"
    try:
        server.start()
        [[version]] = server.sql(version_of)
        version = re.split("[ -]", version)[0]  # without the version of the Linux distribution
        yield Database(name, title, driver, version, lambda: server.database(scheme).url, folder, server)
    finally:
        server.remove()

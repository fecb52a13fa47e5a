"""The databases: an SQLite file, and private servers that the tests' own module starts."""

import contextlib
import itertools
import re
import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator
from urllib.parse import urlsplit

from servers import MariaDB, PostgreSQL, Server

from magnus_peewee_store import create_tables

DATABASES = ("sqlite", "postgresql", "mariadb")

# The numbers from 0, made by the database itself.
_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}) "
    "SELECT {columns} FROM numbers",
    "postgresql": "SELECT {columns} FROM generate_series(0, {last}) AS numbers(n)",
    "mysql": "SELECT {columns} FROM (SELECT seq AS n FROM seq_0_to_{last}) AS numbers",
}


def kind_of(url: str) -> str:
    """The kind of database that a URL names: sqlite, postgresql or mysql."""
    return urlsplit(url).scheme.partition("+")[0]


def now() -> str:
    """The time in UTC, as every driver takes it for created_at."""
    return datetime.now(timezone.utc).replace(tzinfo=None).isoformat(" ")


def connect(url: str) -> Any:
    """Connect by the raw driver: in autocommit, and as durable as the store."""
    if kind_of(url) == "sqlite":
        connection = sqlite3.connect(url[len("sqlite:///") :], timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = full")
        return connection
    parts = urlsplit(url)
    if kind_of(url) == "postgresql":
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
    # The store's. The default locks gaps between rows, over which many writers of one run deadlock.
    connection.cursor().execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return connection


def crowd_with_other_runs(url: str, rows: int) -> None:
    """Fill the table with rows of other runs, a thousand each, with short values."""
    kind = kind_of(url)
    run_id, key = (
        ("CONCAT('other', FLOOR(n / 1000))", "CONCAT('step', n % 1000)")
        if kind == "mysql"
        else ("'other' || (n / 1000)", "'step' || (n % 1000)")
    )
    value = '{"name": "a step of another run", "status": "SUCCESS"}'
    columns = f"{run_id}, 'Step', {key}, '{value}', '{now()}'"
    if kind == "postgresql":
        columns += "::timestamp"
    select = _NUMBERS[kind].format(columns=columns, last=rows - 1)
    with closing(connect(url)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(
            f"INSERT INTO db_log (run_id, attribute_type, attribute_key, attribute_value, created_at) {select}"
        )
        _analyze(cursor, kind)


def fill_with_runs(url: str, runs: int, steps: int) -> None:
    """Fill the table with so many whole runs of so many steps, one run begun each second."""
    kind = kind_of(url)
    created_at = {
        "sqlite": "datetime('2026-01-01', '+' || ({run}) || ' seconds')",
        "postgresql": "timestamp '2026-01-01' + ({run}) * interval '1 second'",
        "mysql": "timestamp '2026-01-01 00:00:00' + INTERVAL ({run}) SECOND",
    }[kind]
    header = '{"run_id": "runRUN", "status": "SUCCESS"}'
    step_log = '{"name": "stepSTEP", "internal_name": "stepSTEP", "status": "SUCCESS"}'
    run, step = (f"n DIV {steps}", f"n % {steps}") if kind == "mysql" else (f"n / {steps}", f"n % {steps}")

    def filled(template: str, run: str) -> str:
        """A text in SQL, with the numbers of the run and the step in it."""
        return f"REPLACE(REPLACE('{template}', 'RUN', {as_text.format(run)}), 'STEP', {as_text.format(step)})"

    as_text = "CAST({} AS CHAR)" if kind == "mysql" else "CAST({} AS TEXT)"
    rows = {
        runs: (filled("runRUN", "n"), "'RunLog'", "'run_log'", filled(header, "n"), created_at.format(run="n")),
        runs * steps: (
            filled("runRUN", run),
            "'Step'",
            filled("stepSTEP", run),
            filled(step_log, run),
            created_at.format(run=run),
        ),
    }
    with closing(connect(url)) as connection, closing(connection.cursor()) as cursor:
        for count, columns in rows.items():
            select = _NUMBERS[kind].format(columns=", ".join(columns), last=count - 1)
            cursor.execute(
                f"INSERT INTO db_log (run_id, attribute_type, attribute_key, attribute_value, created_at) {select}"
            )
        _analyze(cursor, kind)


def _analyze(cursor: Any, kind: str) -> None:
    """Do what a server does by itself after a while."""
    if kind != "sqlite":
        cursor.execute("ANALYZE TABLE db_log" if kind == "mysql" else "VACUUM ANALYZE db_log")


class Database:
    """A kind of database on this machine, of which there can be any number of fresh ones.

    Args:
        name: Its name on the command line.
        title: Its name in the table.
        driver: The name of its driver.
        version: Its version.
        new_url: Makes an empty database, and gives its URL.
        folder: For whatever files there are beside it.
    """

    def __init__(
        self, name: str, title: str, driver: str, version: str, new_url: Callable[[], str], folder: Path
    ) -> None:
        self.name = name
        self.title = title
        self.version = version
        self.raw = f"raw {driver}"
        self.new_url = new_url
        self.folder = folder

    def fresh(self) -> str:
        """Make a database with the store's own table in it, and give its URL."""
        url = self.new_url()
        create_tables(url)
        return url


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Database]:
    """Have a database by its name in `DATABASES`; a server runs as long as the context lasts.

    Args:
        name: The name.
        folder: Where its files may go.
    """
    if name == "sqlite":
        numbers = itertools.count()
        version = sqlite3.sqlite_version
        yield Database(name, "SQLite", "sqlite3", version, lambda: f"sqlite:///{folder}/{next(numbers)}.db", folder)
        return
    # The tests' servers are small; these are as they come.
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
        version = re.split("[ -]", version)[0]  # without the distribution's
        yield Database(name, title, driver, version, lambda: server.database(scheme).url, folder)
    finally:
        server.remove()

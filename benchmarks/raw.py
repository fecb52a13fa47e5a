"""The raw drivers, as a lower limit for any store. The first call of a process is measured with this module, too."""

import itertools
import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Dict, Iterable, List
from urllib.parse import urlsplit

from magnus.datastore import BranchLog, RunLog, StepLog
from pydantic_core import from_json

from benchmarks import logs

BATCH = 100  # rows of an INSERT


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
    where: Dict[str, Any] = {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": parts.password,
    }
    if parts.scheme == "postgresql+psycopg":
        import psycopg

        return psycopg.connect(**where, dbname=parts.path[1:], autocommit=True)
    if parts.scheme == "postgresql+psycopg2":
        import psycopg2

        connection = psycopg2.connect(**where, dbname=parts.path[1:])
        connection.autocommit = True
        return connection
    import pymysql

    connection = pymysql.connect(**where, database=parts.path[1:], autocommit=True)
    # As in the store. The default, REPEATABLE READ, locks gaps between rows, so writers of one run deadlock.
    connection.cursor().execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return connection


def insert(url: str, rows: Iterable[logs.RowOfRun]) -> None:
    """Insert rows in one transaction."""
    rows = iter(rows)
    with closing(connect(url)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        for batch in iter(lambda: list(itertools.islice(rows, BATCH)), []):
            cursor.execute(_insert(url, len(batch)), [value for row in batch for value in row])
        cursor.execute("COMMIT")


def insert_run(url: str, run_log: RunLog) -> None:
    """Insert a full run log."""
    insert(url, ((run_log.run_id, *row, now()) for row in logs.rows(run_log)))


def insert_runs(url: str, rows: Iterable[logs.RowOfRun]) -> None:
    """Insert many runs, and update the statistics of the table, which servers do by themselves after some time."""
    insert(url, rows)
    if dialect_of(url) != "sqlite":
        with closing(connect(url)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("ANALYZE TABLE db_log" if dialect_of(url) == "mysql" else "VACUUM ANALYZE db_log")


def _insert(url: str, rows: int) -> str:
    placeholder = "?" if dialect_of(url) == "sqlite" else "%s"
    values = ", ".join([f"({', '.join([placeholder] * 5)})"] * rows)
    return f"INSERT INTO db_log (run_id, attribute_type, attribute_key, attribute_value, created_at) VALUES {values}"


@lru_cache(maxsize=None)
def _upsert(url: str, rows: int) -> str:
    conflict = (
        "ON DUPLICATE KEY UPDATE attribute_value = VALUES(attribute_value)"
        if dialect_of(url) == "mysql"
        else "ON CONFLICT (run_id, attribute_type, attribute_key) "
        "DO UPDATE SET attribute_value = excluded.attribute_value"
    )
    return f"{_insert(url, rows)} {conflict}"


class RawDriver:
    """Call the driver directly, with one statement per call. It writes rows that are prepared before, and reads text.

    Args:
        url: The URL of a database that has the table of the store.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = connect(url)
        self.cursor = self.connection.cursor()
        placeholder = "?" if dialect_of(url) == "sqlite" else "%s"
        from_run = f"FROM db_log WHERE run_id = {placeholder}"
        self._one = f"SELECT attribute_value {from_run} AND attribute_type = 'Step' AND attribute_key = {placeholder}"
        self._parameters = f"SELECT attribute_key, attribute_value {from_run} AND attribute_type = 'Parameter'"
        self._all = f"SELECT attribute_type, attribute_key, attribute_value {from_run} ORDER BY created_at, pk"

    def prepare(self, written: Any) -> List[logs.Row]:
        """Return the rows of a step log or of parameters."""
        return logs.parameter_rows(written) if isinstance(written, dict) else [logs.step_row(written)]

    def put_run_log(self, run_log: RunLog) -> None:
        """Write a full run log."""
        insert_run(self.url, run_log)

    def add_step_log(self, rows: Any, run_id: str) -> None:
        """Write the prepared row of a step."""
        self._write(run_id, rows)

    def get_step_log(self, name: str, run_id: str) -> Any:
        """Read a step."""
        return self._read(self._one, run_id, name)

    def get_parameters(self, run_id: str) -> Any:
        """Read the parameters."""
        return self._read(self._parameters, run_id)

    def set_parameters(self, run_id: str, rows: Any) -> None:
        """Write prepared rows with one upsert, which is faster than executemany of any driver."""
        self._write(run_id, rows)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _write(self, run_id: str, rows: List[logs.Row]) -> None:
        self.cursor.execute(_upsert(self.url, len(rows)), [value for row in rows for value in (run_id, *row, now())])

    def _read(self, statement: str, *values: str) -> Any:
        self.cursor.execute(statement, values)
        return self.cursor.fetchall()


class RawDriverAndPydantic(RawDriver):
    """Call the driver directly, but write JSON and validate it with pydantic within the calls, as every store must."""

    def prepare(self, written: Any) -> Any:
        """Return what magnus passes to a store."""
        return written

    def add_step_log(self, step_log: StepLog, run_id: str) -> None:
        """Write a step."""
        self._write(run_id, [logs.step_row(step_log)])

    def get_step_log(self, name: str, run_id: str) -> StepLog:
        """Read a step."""
        [[value]] = super().get_step_log(name, run_id)
        return StepLog.model_validate_json(value)

    def get_parameters(self, run_id: str) -> Dict[str, Any]:
        """Read the parameters."""
        return {name: from_json(value) for name, value in super().get_parameters(run_id)}

    def set_parameters(self, run_id: str, parameters: Dict[str, Any]) -> None:
        """Write parameters."""
        self._write(run_id, logs.parameter_rows(parameters))

    def get_run_log_by_id(self, run_id: str, full: bool) -> List[Any]:
        """Read all rows of a run and validate their JSON."""
        models: Dict[str, Any] = {"RunLog": RunLog, "Step": StepLog, "Branch": BranchLog}
        return [
            models[attribute_type].model_validate_json(value) if attribute_type in models else from_json(value)
            for attribute_type, _, value in self._read(self._all, run_id)
        ]

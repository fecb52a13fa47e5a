"""The stores that are measured, and the raw drivers as a lower limit for any store."""

from collections import OrderedDict
from contextlib import closing
from functools import partial
from tempfile import mkdtemp
from typing import Any, Callable, Dict, List, Union

from magnus.datastore import BranchLog, RunLog, StepLog
from magnus.extensions.run_log_store.chunked_file_system.implementation import ChunkedFileSystemRunLogStore
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore
from pydantic_core import from_json

from benchmarks import logs
from benchmarks.databases import Database, connect, dialect_of, now
from benchmarks.sqlalchemy_store import SQLAlchemyStore
from magnus_peewee_store import DBStore

THIS_STORE = "magnus-peewee-store"
SQLALCHEMY = "SQLAlchemy's way"

Call = Callable[[], Any]


class StoreAdapter:
    """Adapt a run log store to the benchmarks."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def write_run_log(self, run_log: RunLog) -> None:
        """Write a full run log."""
        self.store.put_run_log(run_log)

    def prepare_step_calls(self, run_id: str, number: int) -> List[Call]:
        """Prepare the six calls that magnus makes for a step."""
        store, name = self.store, logs.step_name(number)
        return [
            partial(store.add_step_log, logs.started(name), run_id),
            partial(store.get_step_log, name, run_id),
            partial(store.get_parameters, run_id),
            partial(store.set_parameters, run_id, logs.parameter(number)),
            partial(store.add_step_log, logs.finished(name), run_id),
            partial(store.get_step_log, name, run_id),
        ]

    def prepare_set_parameters(self, run_id: str, parameters: Dict[str, Any]) -> Call:
        """Prepare a call that writes parameters."""
        return partial(self.store.set_parameters, run_id, parameters)

    def prepare_read(self, run_id: str) -> Call:
        """Prepare a call that reads the full run log."""
        return partial(self.store.get_run_log_by_id, run_id, full=True)

    def close(self) -> None:
        """Close the connection of the store, if it has one."""
        if hasattr(self.store, "close"):
            self.store.close()


class ChunkedFileStore(StoreAdapter):
    """The `chunked-fs` store of magnus."""

    def write_run_log(self, run_log: RunLog) -> None:
        """Write a run log without searching for existing files, which takes minutes for thousands of steps."""
        store, run_id = self.store, run_log.run_id
        store.put_run_log(run_log.model_copy(update={"steps": OrderedDict()}))
        store.set_parameters(run_id, run_log.parameters)
        for number, step_log in enumerate(run_log.steps.values()):
            name = f"{store.LogTypes.STEP_LOG.value}-{step_log.internal_name}-{number}"
            store._store(run_id, step_log.model_dump(), name, insert=True)


def upsert(url: str, rows: int = 1) -> str:
    """Return the upsert statement for a number of rows, in the dialect and parameter style of the database."""
    dialect = dialect_of(url)
    placeholder = "?" if dialect == "sqlite" else "%s"
    values = ", ".join([f"({', '.join([placeholder] * 5)})"] * rows)
    conflict = (
        "ON DUPLICATE KEY UPDATE attribute_value = VALUES(attribute_value)"
        if dialect == "mysql"
        else "ON CONFLICT (run_id, attribute_type, attribute_key) "
        "DO UPDATE SET attribute_value = excluded.attribute_value"
    )
    columns = "run_id, attribute_type, attribute_key, attribute_value, created_at"
    return f"INSERT INTO db_log ({columns}) VALUES {values} {conflict}"


class RawDriver:
    """Call the driver directly, with one statement per call and values that are prepared before.

    Args:
        url: The URL of a database that has the table of the store.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = connect(url)
        self.cursor = self.connection.cursor()
        placeholder = "?" if dialect_of(url) == "sqlite" else "%s"
        from_run = f"FROM db_log WHERE run_id = {placeholder}"
        self._upsert = upsert(url)
        self._one = (
            f"SELECT attribute_value {from_run} AND attribute_type = {placeholder} AND attribute_key = {placeholder}"
        )
        self._parameters = f"SELECT attribute_key, attribute_value {from_run} AND attribute_type = 'Parameter'"
        self._all = f"SELECT attribute_type, attribute_key, attribute_value {from_run} ORDER BY created_at, pk"

    def write_run_log(self, run_log: RunLog) -> None:
        """Write a full run log."""
        values = [(run_log.run_id, *row, now()) for row in logs.rows(run_log)]
        self.cursor.execute("BEGIN")
        self.cursor.executemany(self._upsert, values)
        self.cursor.execute("COMMIT")

    def prepare_step_calls(self, run_id: str, number: int) -> List[Call]:
        """Prepare the statements of the six calls."""
        name = logs.step_name(number)
        [parameter] = logs.parameter_rows(logs.parameter(number))
        read = partial(self._read, self._one, run_id, "Step", name)
        return [
            partial(self._write, run_id, logs.step_row(logs.started(name))),
            read,
            partial(self._read, self._parameters, run_id),
            partial(self._write, run_id, parameter),
            partial(self._write, run_id, logs.step_row(logs.finished(name))),
            read,
        ]

    def prepare_set_parameters(self, run_id: str, parameters: Dict[str, Any]) -> Call:
        """Prepare one upsert of many rows, which is faster than executemany of any driver."""
        rows = logs.parameter_rows(parameters)
        values = [value for row in rows for value in (run_id, *row, now())]
        return partial(self.cursor.execute, upsert(self.url, len(rows)), values)

    def prepare_read(self, run_id: str) -> Call:
        """Prepare a call that reads all rows of a run and validates their JSON with pydantic."""
        return partial(self._read_all, run_id)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _write(self, run_id: str, row: logs.Row) -> None:
        self.cursor.execute(self._upsert, (run_id, *row, now()))

    def _read(self, statement: str, *values: Any) -> Any:
        self.cursor.execute(statement, values)
        return self.cursor.fetchall()

    def _read_all(self, run_id: str) -> List[Any]:
        models: Dict[str, Any] = {"RunLog": RunLog, "Step": StepLog, "Branch": BranchLog}
        return [
            models[attribute_type].model_validate_json(value) if attribute_type in models else from_json(value)
            for attribute_type, _, value in self._read(self._all, run_id)
        ]


class RawDriverAndPydantic(RawDriver):
    """Call the driver directly, but write JSON and validate it with pydantic within the calls, as every store must."""

    def prepare_step_calls(self, run_id: str, number: int) -> List[Call]:
        """Prepare the six calls of a step."""
        name = logs.step_name(number)
        return [
            partial(self._write_step, run_id, logs.started(name)),
            partial(self._read_step, run_id, name),
            partial(self._read_parameters, run_id),
            partial(self._write_parameters, run_id, logs.parameter(number)),
            partial(self._write_step, run_id, logs.finished(name)),
            partial(self._read_step, run_id, name),
        ]

    def _write_step(self, run_id: str, step_log: StepLog) -> None:
        self._write(run_id, logs.step_row(step_log))

    def _write_parameters(self, run_id: str, parameters: Dict[str, Any]) -> None:
        for row in logs.parameter_rows(parameters):
            self._write(run_id, row)

    def _read_step(self, run_id: str, name: str) -> StepLog:
        [[value]] = self._read(self._one, run_id, "Step", name)
        return StepLog.model_validate_json(value)

    def _read_parameters(self, run_id: str) -> Dict[str, Any]:
        return {name: from_json(value) for name, value in self._read(self._parameters, run_id)}


class DBStoreAdapter(StoreAdapter):
    """Adapt `DBStore`.

    Args:
        url: The URL of a database that has the table of the store.
    """

    def __init__(self, url: str) -> None:
        super().__init__(DBStore(connection_string=url))
        self.url = url

    def write_run_log(self, run_log: RunLog) -> None:
        """Write a full run log with the raw driver, which is faster. This call is not measured."""
        with closing(RawDriver(self.url)) as raw:
            raw.write_run_log(run_log)


AnyStore = Union[StoreAdapter, RawDriver]


def store_makers(database: Database) -> Dict[str, Callable[[], AnyStore]]:
    """Return functions that create each store, by its name. Each store gets a new database.

    The first is this store. Then come the raw driver, without and with pydantic. With SQLite, the file stores of magnus
    are included.
    """
    makers: Dict[str, Callable[[], AnyStore]] = {
        THIS_STORE: lambda: DBStoreAdapter(database.new_url_with_table()),
        database.raw_driver_name: lambda: RawDriver(database.new_url_with_table()),
        f"{database.raw_driver_name} and pydantic": lambda: RawDriverAndPydantic(database.new_url_with_table()),
        SQLALCHEMY: lambda: StoreAdapter(SQLAlchemyStore(database.new_url())),
    }
    if database.name == "sqlite":
        makers["chunked-fs"] = lambda: ChunkedFileStore(
            ChunkedFileSystemRunLogStore(log_folder=mkdtemp(dir=str(database.folder)))
        )
        makers["file-system"] = lambda: StoreAdapter(
            FileSystemRunLogstore(log_folder=mkdtemp(dir=str(database.folder)))
        )
    return makers

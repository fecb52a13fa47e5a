"""Who is measured: stores, and as the floor below any store the raw drivers."""

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
from benchmarks.databases import Database, connect, kind_of, now
from benchmarks.sqlalchemy_way import SQLAlchemyStore
from magnus_peewee_store import DBStore

OURS = "magnus-peewee-store"
SQLALCHEMY = "SQLAlchemy's way"

Call = Callable[[], Any]


class Store:
    """A run log store.

    Args:
        store: The store.
    """

    def __init__(self, store: Any) -> None:
        self.store = store

    def fill(self, run_log: RunLog) -> None:
        """Write a run log with all that it holds."""
        self.store.put_run_log(run_log)

    def calls(self, run_id: str, number: int) -> List[Call]:
        """Prepare the six calls that a step costs."""
        store, name = self.store, logs.step_name(number)
        return [
            partial(store.add_step_log, logs.started(name), run_id),
            partial(store.get_step_log, name, run_id),
            partial(store.get_parameters, run_id),
            partial(store.set_parameters, run_id, logs.parameter(number)),
            partial(store.add_step_log, logs.finished(name), run_id),
            partial(store.get_step_log, name, run_id),
        ]

    def setting(self, run_id: str, parameters: Dict[str, Any]) -> Call:
        """Prepare the writing of parameters."""
        return partial(self.store.set_parameters, run_id, parameters)

    def reading(self, run_id: str) -> Call:
        """Prepare the reading of a full run log."""
        return partial(self.store.get_run_log_by_id, run_id, full=True)

    def close(self) -> None:
        """Close its connection."""
        if hasattr(self.store, "close"):
            self.store.close()


class ChunkedFiles(Store):
    """magnus' `chunked-fs`."""

    def fill(self, run_log: RunLog) -> None:
        """Write a run log as its calls would, without their search for what is there: of thousands it takes minutes."""
        store, run_id = self.store, run_log.run_id
        store.put_run_log(run_log.model_copy(update={"steps": OrderedDict()}))
        store.set_parameters(run_id, run_log.parameters)
        for number, step_log in enumerate(run_log.steps.values()):
            name = f"{store.LogTypes.STEP_LOG.value}-{step_log.internal_name}-{number}"
            store._store(run_id, step_log.model_dump(), name, insert=True)


def upsert(url: str, rows: int = 1) -> str:
    """The statement that writes rows over those of the same key, as a database's driver takes it.

    Args:
        url: The URL of the database.
        rows: How many.
    """
    kind = kind_of(url)
    mark = "?" if kind == "sqlite" else "%s"
    values = ", ".join([f"({', '.join([mark] * 5)})"] * rows)
    conflict = (
        "ON DUPLICATE KEY UPDATE attribute_value = VALUES(attribute_value)"
        if kind == "mysql"
        else "ON CONFLICT (run_id, attribute_type, attribute_key) "
        "DO UPDATE SET attribute_value = excluded.attribute_value"
    )
    columns = "run_id, attribute_type, attribute_key, attribute_value, created_at"
    return f"INSERT INTO db_log ({columns}) VALUES {values} {conflict}"


class RawDriver:
    """The floor: the driver's own calls, a statement each, of values made ready before.

    Args:
        url: The URL of a database that has the store's own table.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = connect(url)
        self.cursor = self.connection.cursor()
        mark = "?" if kind_of(url) == "sqlite" else "%s"
        of_run = f"FROM db_log WHERE run_id = {mark}"
        self._upsert = upsert(url)
        self._one = f"SELECT attribute_value {of_run} AND attribute_type = {mark} AND attribute_key = {mark}"
        self._parameters = f"SELECT attribute_key, attribute_value {of_run} AND attribute_type = 'Parameter'"
        self._all = f"SELECT attribute_type, attribute_key, attribute_value {of_run} ORDER BY created_at, pk"

    def fill(self, run_log: RunLog) -> None:
        """Write a run log with all that it holds."""
        values = [(run_log.run_id, *row, now()) for row in logs.rows(run_log)]
        self.cursor.execute("BEGIN")
        self.cursor.executemany(self._upsert, values)
        self.cursor.execute("COMMIT")

    def calls(self, run_id: str, number: int) -> List[Call]:
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

    def setting(self, run_id: str, parameters: Dict[str, Any]) -> Call:
        """Prepare the writing of parameters: one statement of many rows, which no driver's executemany beats."""
        rows = logs.parameter_rows(parameters)
        values = [value for row in rows for value in (run_id, *row, now())]
        return partial(self.cursor.execute, upsert(self.url, len(rows)), values)

    def reading(self, run_id: str) -> Call:
        """Prepare the reading of all rows of a run: here with their JSON parsed and validated, by pydantic."""
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
            models[kind].model_validate_json(value) if kind in models else from_json(value)
            for kind, _, value in self._read(self._all, run_id)
        ]


class RawDriverAndPydantic(RawDriver):
    """The floor of a store that returns magnus' objects: the raw driver, JSON written and read within the calls."""

    def calls(self, run_id: str, number: int) -> List[Call]:
        """Prepare the six calls that a step costs."""
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


class Ours(Store):
    """The store under measurement.

    Args:
        url: The URL of a database that has its table.
    """

    def __init__(self, url: str) -> None:
        super().__init__(DBStore(connection_string=url))
        self.url = url

    def fill(self, run_log: RunLog) -> None:
        """Write a run log with all that it holds, by the raw driver: that is quicker, and not what is measured."""
        with closing(RawDriver(self.url)) as raw:
            raw.fill(run_log)


Contender = Union[Store, RawDriver]


def contenders(database: Database) -> Dict[str, Callable[[], Contender]]:
    """All that write a step on a database, each to be made on a fresh one: the store first, then its two floors.

    Args:
        database: The database. Beside SQLite there are magnus' own stores, which write files too.
    """
    makers: Dict[str, Callable[[], Contender]] = {
        OURS: lambda: Ours(database.fresh()),
        database.raw: lambda: RawDriver(database.fresh()),
        f"{database.raw} and pydantic": lambda: RawDriverAndPydantic(database.fresh()),
        SQLALCHEMY: lambda: Store(SQLAlchemyStore(database.new_url())),
    }
    if database.name == "sqlite":
        makers["chunked-fs"] = lambda: ChunkedFiles(
            ChunkedFileSystemRunLogStore(log_folder=mkdtemp(dir=str(database.folder)))
        )
        makers["file-system"] = lambda: Store(FileSystemRunLogstore(log_folder=mkdtemp(dir=str(database.folder))))
    return makers

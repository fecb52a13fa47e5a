"""The run log stores that are measured: this one, the older SQLAlchemy extension, and those of magnus."""

import json
from collections import OrderedDict
from datetime import datetime
from functools import partial
from tempfile import mkdtemp
from typing import Any, Callable, Dict, List

from magnus.datastore import RunLog, StepLog
from magnus.extensions.run_log_store.chunked_file_system.implementation import ChunkedFileSystemRunLogStore
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore
from sqlalchemy import Column, DateTime, Integer, Sequence, Text, create_engine
from sqlalchemy.orm import declarative_base, sessionmaker

from benchmarks import logs
from benchmarks.databases import Database
from benchmarks.raw import RawDriver, RawDriverAndPydantic, now
from magnus_peewee_store import DBStore

THIS_STORE = "magnus-peewee-store"
SQLALCHEMY = "SQLAlchemy's way"

Call = Callable[[], Any]

Base: Any = declarative_base()


def db_store(url: str) -> DBStore:
    """Return this store, on a database that has its table."""
    return DBStore(connection_string=url)


class ChunkedFileStore(ChunkedFileSystemRunLogStore):
    """The `chunked-fs` store of magnus."""

    def put_run_log(self, run_log: RunLog, **kwargs: Any) -> None:
        """Write a run log without searching for existing files, which takes minutes for thousands of steps."""
        super().put_run_log(run_log.model_copy(update={"steps": OrderedDict()}))
        self.set_parameters(run_log.run_id, run_log.parameters)
        for number, step_log in enumerate(run_log.steps.values()):
            name = f"{self.LogTypes.STEP_LOG.value}-{step_log.internal_name}-{number}"
            self._store(run_log.run_id, step_log.model_dump(), name, insert=True)


class DBLog(Base):
    """The table as the older SQLAlchemy extension documents it, without an index."""

    __tablename__ = "db_log"
    pk = Column(Integer, Sequence("id_seq"), primary_key=True)
    run_id = Column(Text)
    attribute_key = Column(Text)
    attribute_type = Column(Text)
    attribute_value = Column(Text)
    created_at = Column(DateTime)


class SQLAlchemyStore:
    """A store like the older SQLAlchemy extension: one session per call, SELECT before INSERT or UPDATE.

    Args:
        url: The URL of an empty database.
    """

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        self.session = sessionmaker(bind=self.engine)
        Base.metadata.create_all(self.engine)

    def put_run_log(self, run_log: RunLog) -> None:
        """Write a new full run log."""
        with self.session() as session:
            session.add_all(_row_of(run_log.run_id, *row) for row in logs.rows(run_log))
            session.commit()

    def add_step_log(self, step_log: StepLog, run_id: str) -> None:
        """Write the log of a step."""
        self._write(run_id, *logs.step_row(step_log))

    def get_step_log(self, internal_name: str, run_id: str) -> StepLog:
        """Read the log of a step."""
        with self.session() as session:
            return StepLog(**json.loads(_query(session, run_id, "Step", internal_name).one().attribute_value))

    def get_parameters(self, run_id: str) -> Dict[str, Any]:
        """Read the parameters of a run."""
        with self.session() as session:
            rows = session.query(DBLog).filter_by(run_id=run_id, attribute_type="Parameter").order_by(DBLog.created_at)
            return {row.attribute_key: json.loads(row.attribute_value) for row in rows}

    def set_parameters(self, run_id: str, parameters: Dict[str, Any]) -> None:
        """Write the parameters of a run one by one."""
        for row in logs.parameter_rows(parameters):
            self._write(run_id, *row)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def _write(self, run_id: str, attribute_type: str, key: str, value: str) -> None:
        with self.session() as session:
            row = _query(session, run_id, attribute_type, key).first()
            if row is None:
                session.add(_row_of(run_id, attribute_type, key, value))
            else:
                row.attribute_value = value
            session.commit()


def _row_of(run_id: str, attribute_type: str, key: str, value: str) -> DBLog:
    created_at = datetime.fromisoformat(now())
    return DBLog(
        run_id=run_id, attribute_type=attribute_type, attribute_key=key, attribute_value=value, created_at=created_at
    )


def _query(session: Any, run_id: str, attribute_type: str, key: str) -> Any:
    return session.query(DBLog).filter_by(run_id=run_id, attribute_type=attribute_type, attribute_key=key)


def store_makers(database: Database) -> Dict[str, Callable[[], Any]]:
    """Return functions that create each store, by its name. Each store gets a new database.

    The first is this store. Then come the raw driver, without and with pydantic. With SQLite, the file stores of magnus
    are included. All have the methods of magnus' run log stores that a step calls.
    """
    makers: Dict[str, Callable[[], Any]] = {
        THIS_STORE: lambda: db_store(database.new_url_with_table()),
        database.raw_driver_name: lambda: RawDriver(database.new_url_with_table()),
        f"{database.raw_driver_name} and pydantic": lambda: RawDriverAndPydantic(database.new_url_with_table()),
        SQLALCHEMY: lambda: SQLAlchemyStore(database.new_url()),
    }
    if database.name == "sqlite":
        folder = str(database.folder)
        makers["chunked-fs"] = lambda: ChunkedFileStore(log_folder=mkdtemp(dir=folder))
        makers["file-system"] = lambda: FileSystemRunLogstore(log_folder=mkdtemp(dir=folder))
    return makers


def prepare_step_calls(store: Any, run_id: str, number: int) -> List[Call]:
    """Prepare the six calls that magnus makes for a step."""
    name = logs.step_name(number)
    prepare = getattr(store, "prepare", lambda written: written)
    return [
        partial(store.add_step_log, prepare(logs.started(name)), run_id),
        partial(store.get_step_log, name, run_id),
        partial(store.get_parameters, run_id),
        partial(store.set_parameters, run_id, prepare(logs.parameter(number))),
        partial(store.add_step_log, prepare(logs.finished(name)), run_id),
        partial(store.get_step_log, name, run_id),
    ]

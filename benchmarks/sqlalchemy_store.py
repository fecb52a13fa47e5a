"""A store like the older SQLAlchemy extension: one session per call, SELECT before INSERT or UPDATE, no index."""

import datetime
import json
from typing import Any, Dict

from magnus.datastore import RunLog, StepLog
from sqlalchemy import Column, DateTime, Integer, Sequence, Text, create_engine
from sqlalchemy.orm import declarative_base, sessionmaker

from benchmarks import logs

Base: Any = declarative_base()


class DBLog(Base):
    """The table as the older extension documents it."""

    __tablename__ = "db_log"
    pk = Column(Integer, Sequence("id_seq"), primary_key=True)
    run_id = Column(Text)
    attribute_key = Column(Text)
    attribute_type = Column(Text)
    attribute_value = Column(Text)
    created_at = Column(DateTime, default=lambda: datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None))


class SQLAlchemyStore:
    """The measured part of a run log store.

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
            for attribute_type, key, value in logs.rows(run_log):
                session.add(
                    DBLog(
                        run_id=run_log.run_id, attribute_type=attribute_type, attribute_key=key, attribute_value=value
                    )
                )
            session.commit()

    def add_step_log(self, step_log: StepLog, run_id: str) -> None:
        """Write the log of a step."""
        self._write(run_id, *logs.step_row(step_log))

    def get_step_log(self, internal_name: str, run_id: str) -> StepLog:
        """Read the log of a step."""
        with self.session() as session:
            return StepLog(**json.loads(self._query(session, run_id, "Step", internal_name).one().attribute_value))

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
            row = self._query(session, run_id, attribute_type, key).first()
            if row is None:
                session.add(
                    DBLog(run_id=run_id, attribute_type=attribute_type, attribute_key=key, attribute_value=value)
                )
            else:
                row.attribute_value = value
            session.commit()

    @staticmethod
    def _query(session: Any, run_id: str, attribute_type: str, key: str) -> Any:
        return session.query(DBLog).filter_by(run_id=run_id, attribute_type=attribute_type, attribute_key=key)

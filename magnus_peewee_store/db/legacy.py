"""A table `db_log` that others made, without the unique index: each write locks the run and is several statements."""

from datetime import datetime
from typing import Any, ContextManager, Sequence

import peewee

from magnus_peewee_store.db.queries import Queries
from magnus_peewee_store.db.table import Requirement, Row
from magnus_peewee_store.db.whole_runs import RunTable
from magnus_peewee_store.times import utcnow


class LegacyTable(RunTable):
    """The rows of a table without the unique index. It becomes a `RunTable` when a write shows that it has one now."""

    def _transaction(self, run_id: str) -> ContextManager[Any]:
        return self.database.run_lock(run_id)

    def _insert_row(self, now: datetime, run_id: str, row: Row) -> bool:
        with self._transaction(run_id):
            return not self._has(run_id, (row[0],), row[1]) and super()._insert_row(now, run_id, row)

    def _upsert(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement]) -> bool:
        try:
            with self._transaction(run_id):
                return all(self._has(run_id, *each) for each in requires) and self._write(run_id, rows)
        except peewee.IntegrityError:
            layout = self._schema.inspect()
            if not layout.has_unique_index:
                raise
        self._queries = Queries(self._log, layout)
        self.__class__ = RunTable  # type: ignore[assignment]
        return self._upsert(run_id, rows, requires)

    def _write(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement] = ()) -> bool:
        log = self._log
        for row in rows:
            self._check_size(run_id, row)
            keys = [pk for (pk,) in self._queries.rows_of(run_id, (row[0],), row[1]).select(log.pk).tuples()]
            if keys:
                log.update(attribute_value=row[2]).where(log.pk.in_(keys)).execute()
            else:
                super()._insert_row(utcnow(), run_id, row)
        return True

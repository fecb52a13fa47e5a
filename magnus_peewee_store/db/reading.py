"""Read the rows of the table `db_log`."""

import datetime
from typing import Any, Iterator, List, Mapping, Optional, Sequence, Tuple

from peewee import fn

from magnus_peewee_store.db.access import TableAccess, retrying
from magnus_peewee_store.db.backends import Backend
from magnus_peewee_store.db.queries import Paths, Types
from magnus_peewee_store.db.rows import Requirement, Row, StoredRow, check_texts


class TableReader(TableAccess):
    """The rows of `db_log` in one database, to read.

    In all methods, `types` are alternatives of attribute_type, and `name` is an attribute_key. None means any.
    """

    def __init__(self, database: Backend) -> None:
        super().__init__(database)
        self._stored = [getattr(self._log, name) for name in StoredRow._fields]

    @retrying
    def read(
        self, run_id: str, types: Optional[Types] = None, name: Optional[str] = None, except_types: Types = ()
    ) -> List[Row]:
        """Return rows of a run, oldest first."""
        check_texts(run_id, name=name)
        return self._read(run_id, types, name, except_types=except_types)

    @retrying
    def has(self, run_id: str, types: Optional[Types] = None, name: Optional[str] = None) -> bool:
        """Return True if the run has such a row."""
        check_texts(run_id, name=name)
        return self._has(run_id, types, name)

    @retrying
    def runs(
        self,
        types: Sequence[str],
        since: Optional[datetime.datetime] = None,
        prefix: str = "",
        containing: Sequence[str] = (),
        containing_or_with_row: Optional[Mapping[str, Requirement]] = None,
        limit: Optional[int] = None,
    ) -> List[Tuple[str, datetime.datetime]]:
        """Return the id of each run that has a row of these types, with the row's created_at, newest first.

        Args:
            types: Types that occur only once in a run, such as the type of the run's own row.
            since: Return only rows created at this time or later.
            prefix: Return only runs whose id begins with it.
            containing: Return only rows whose value contains each of these texts, ignoring case.
            containing_or_with_row: Maps each text to another row. For each text, return only rows whose value contains
                it, or whose run has the other row.
            limit: The largest number of runs.
        """
        log = self._log
        rows = log.select(log.run_id, log.created_at).where(log.attribute_type.in_(types))
        if since:
            rows = rows.where(log.created_at >= since)
        if prefix:
            rows = rows.where(self._queries.comparable(fn.SUBSTR(log.run_id, 1, len(prefix))) == prefix)
        for text in containing:
            rows = rows.where(log.attribute_value.contains(text))
        for text, (other_types, name) in (containing_or_with_row or {}).items():
            runs_with_row = self._queries.rows_of(None, other_types, name).select(log.run_id)
            rows = rows.where(log.attribute_value.contains(text) | log.run_id.in_(runs_with_row))
        return list(rows.order_by(log.created_at.desc(), log.run_id.desc()).limit(limit).tuples())

    @retrying
    def count_runs(self, types: Sequence[str]) -> int:
        """Return how many runs have a row of these types."""
        log = self._log
        return int(log.select(fn.COUNT(log.run_id.distinct())).where(log.attribute_type.in_(types)).scalar())

    @retrying
    def read_runs(self, run_ids: Sequence[str], types: Optional[Types] = None) -> List[StoredRow]:
        """Return rows of at most a few hundred runs, oldest first."""
        log = self._log
        rows = log.select(*self._stored).where(self._queries.comparable(log.run_id).in_(run_ids))
        created_at = log.created_at
        if types is not None:
            rows, created_at = rows.where(log.attribute_type.in_(types)), self._queries.sorted_created_at
        rows = self.database.execute(rows.order_by(created_at, log.pk)).fetchall()
        return [self._to_stored(row) for row in rows]

    @retrying
    def created_at_range(self, run_id: str, types: Optional[Types] = None) -> Tuple[Any, Any]:
        """Return the oldest and the newest created_at of rows of a run; (None, None) if there are no such rows."""
        created_at = self._log.created_at
        rows = self._queries.rows_of(run_id, types)
        oldest, newest = rows.select(fn.MIN(created_at), fn.MAX(created_at)).scalar(as_tuple=True)
        return oldest, newest

    @retrying
    def find(self, types: Types, text: str) -> List[StoredRow]:
        """Return the rows whose value contains a text, ignoring case, oldest first."""
        log = self._log
        rows = log.select(*self._stored).where(log.attribute_type.in_(types), log.attribute_value.contains(text))
        rows = self.database.execute(rows.order_by(log.created_at, log.pk)).fetchall()
        return [self._to_stored(row) for row in rows]

    @retrying
    def read_fields(self, run_ids: Sequence[str], types: Types, field_types: Types, paths: Paths) -> List[Any]:
        """Return rows of several runs as (run_id, attribute_type, attribute_key, value, created_at).

        The rows are grouped by run, and each group is sorted, oldest first. For `types`, value is attribute_value. For
        `field_types`, it is what `Backend.json_fields` returns. created_at is as the driver returns it; see
        `parse_created_at`.
        """
        query = self._queries.select_fields(len(run_ids), types, field_types, paths)
        # peewee's conversions would take longer than the query.
        return list(query.run(**{f"run_id_{number}": run_id for number, run_id in enumerate(run_ids)}).fetchall())

    def parse_created_at(self, created_at: Any) -> Any:
        """Convert a created_at that the driver returned."""
        return self._log.created_at.python_value(created_at)

    def scan(self, size: int) -> Iterator[List[StoredRow]]:
        """Yield the whole table in the order of pk, in lists of at most `size` rows."""
        pk, rows = self._read_after(0, size)
        while rows:
            yield rows
            pk, rows = self._read_after(pk, size)

    def _read(
        self,
        run_id: str,
        types: Optional[Types],
        name: Optional[str],
        is_locking: bool = False,
        except_types: Types = (),
    ) -> List[Row]:
        has_row_locks = bool(self.database.for_update)
        query = self._queries.select(types, name is not None, is_locking and has_row_locks, except_types)
        return list(query.run(run_id=run_id, name=name).fetchall())

    def _has(self, run_id: str, types: Optional[Types] = None, name: Optional[str] = None) -> bool:
        query = self._queries.select_one(types, name is not None)
        return query.run(run_id=run_id, name=name).fetchone() is not None

    @retrying
    def _read_after(self, pk: int, size: int) -> Tuple[int, List[StoredRow]]:
        """Return the next rows after a pk. The first item is the pk of the last row."""
        log = self._log
        query = log.select(*self._stored, log.pk).where(log.pk > pk).order_by(log.pk).limit(size)
        rows = self.database.execute(query).fetchall()
        return (rows[-1][-1] if rows else pk), [self._to_stored(row) for row in rows]

    def _to_stored(self, row: Sequence[Any]) -> StoredRow:
        """Convert a row that the driver returned. peewee's own conversion takes as long as the query."""
        return StoredRow._make((*row[:4], self.parse_created_at(row[4])))

"""List, read, insert, change and delete whole runs. The tools use this; magnus' interface does not."""

import functools
import operator
import time
from datetime import datetime
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar

import peewee
from peewee import fn

from magnus_peewee_store.db.queries import Paths, Types
from magnus_peewee_store.db.table import WRITE_ATTEMPTS, LogTable, Requirement, Row, check_texts, retrying

BATCH_SIZE = 50  # runs to read in one query; larger batches cost more garbage collection than the queries they save
DELETE_BATCH = 500  # the maximum number of rows that one DELETE names
DELETE_PAUSE = 0.2  # seconds: longer than a statement takes

T = TypeVar("T")


class StoredRow(NamedTuple):
    """A row as the table stores it, without its pk."""

    run_id: str
    attribute_type: str
    attribute_key: str
    attribute_value: str
    created_at: datetime

    @property
    def fragment(self) -> Row:
        """The columns attribute_type, attribute_key and attribute_value."""
        return self[1:4]


Rows = Sequence[StoredRow]
Change = Callable[[List[StoredRow]], Tuple[Rows, Rows]]  # given rows, returns the rows to write and to delete


def batches(items: Sequence[T], size: int = BATCH_SIZE) -> Iterator[Sequence[T]]:
    """Yield a sequence in slices of `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class RunTable(LogTable):
    """The rows of `db_log`, also those of many runs."""

    @retrying
    def runs(
        self,
        types: Sequence[str],
        since: Optional[datetime] = None,
        prefix: str = "",
        containing: Sequence[str] = (),
        containing_or_with_row: Optional[Mapping[str, Requirement]] = None,
        limit: Optional[int] = None,
    ) -> List[Tuple[str, datetime]]:
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

    def read_runs(self, run_ids: Sequence[str], types: Optional[Types] = None) -> Iterator[StoredRow]:
        """Yield rows of runs. The rows of one run come oldest first."""
        for batch in batches(run_ids):
            yield from self._read_runs(batch, types)

    @retrying
    def _read_runs(self, run_ids: Sequence[str], types: Optional[Types]) -> List[StoredRow]:
        log = self._log
        rows = log.select(*self._columns).where(self._queries.comparable(log.run_id).in_(run_ids))
        created_at = log.created_at
        if types is not None:
            rows, created_at = rows.where(log.attribute_type.in_(types)), self._queries.sorted_created_at
        return self._fetch(rows.order_by(created_at, log.pk))

    @retrying
    def created_at_range(self, run_id: str, types: Optional[Types] = None) -> Tuple[Any, Any]:
        """Return the oldest and the newest created_at of rows of a run; (None, None) if there are no such rows."""
        created_at = self._log.created_at
        rows = self._queries.rows_of(run_id, types)
        oldest, newest = rows.select(fn.MIN(created_at), fn.MAX(created_at)).scalar(as_tuple=True)
        return oldest, newest

    @retrying
    def find(
        self, types: Types, *texts: str, without: Sequence[str] = (), run_ids: Optional[Sequence[str]] = None
    ) -> List[StoredRow]:
        """Return the rows whose value contains one of some texts, ignoring case, oldest first.

        Args:
            texts: The texts, at most a hundred. Without any, all rows are returned.
            without: The texts that the value must not contain.
            run_ids: Return only rows of these runs, at most a few hundred.
        """
        log = self._log
        rows = log.select(*self._columns).where(log.attribute_type.in_(types))
        if texts:
            rows = rows.where(functools.reduce(operator.or_, map(log.attribute_value.contains, texts)))
        for unwanted in without:
            rows = rows.where(~log.attribute_value.contains(unwanted))
        if run_ids is not None:
            rows = rows.where(self._queries.comparable(log.run_id).in_(run_ids))
        return self._fetch(rows.order_by(log.created_at, log.pk))

    @retrying
    def read_fields(self, run_ids: Sequence[str], types: Types, field_types: Types, paths: Paths) -> List[Any]:
        """Return rows of one batch of runs as (run_id, attribute_type, attribute_key, value, created_at).

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

    @retrying
    def _read_after(self, pk: int, size: int) -> Tuple[int, List[StoredRow]]:
        """Return the next rows after a pk. The first item is the pk of the last row."""
        log = self._log
        query = log.select(*self._columns, log.pk).where(log.pk > pk).order_by(log.pk).limit(size)
        rows = self.database.execute(query).fetchall()
        return (rows[-1][-1] if rows else pk), [self._to_stored(row) for row in rows]

    @property
    def _columns(self) -> List[Any]:
        return [getattr(self._log, name) for name in StoredRow._fields]

    def _fetch(self, query: Any) -> List[StoredRow]:
        return [self._to_stored(row) for row in self.database.execute(query).fetchall()]

    def _to_stored(self, row: Sequence[Any]) -> StoredRow:
        """Convert a row that the driver returned. peewee's own conversion takes as long as the query."""
        return StoredRow._make((*row[:4], self.parse_created_at(row[4])))

    @retrying
    def insert_run(self, rows: Sequence[StoredRow]) -> bool:
        """Write the rows of one run with their created_at, all or none.

        Returns:
            False, and nothing is written, if the run already has a row.
        """
        first = rows[0]
        check_texts(first.run_id, *(row.fragment for row in rows))
        try:
            with self._transaction(first.run_id):
                if not self._has(first.run_id):
                    for row in rows:
                        self._insert_stored(row)
                    return True
        except peewee.IntegrityError:
            if not self._has(first.run_id):
                raise
        return self._has_inserted(first.run_id, first.fragment, first.created_at)

    def _insert_stored(self, row: StoredRow) -> None:
        self._check_size(row.run_id, row.fragment)
        self._queries.insert_stored().run(**row._asdict())

    @retrying
    def change_run(self, run_id: str, change: Change, types: Optional[Types] = None) -> None:
        """Change the rows of a run in one transaction, decided under a lock on its rows.

        Args:
            run_id: The id of the run.
            change: Given the present rows, returns the rows to write, and the rows to delete. A row that the run has
                keeps its created_at.
            types: Read and lock only rows of these types.
        """
        check_texts(run_id)
        for remaining in reversed(range(WRITE_ATTEMPTS)):
            try:
                self._change_run(run_id, change, types)
                return
            except peewee.IntegrityError:
                # Another process has inserted one of the rows in the meantime.
                if not remaining:
                    raise

    def _change_run(self, run_id: str, change: Change, types: Optional[Types]) -> None:
        log = self._log
        with self._transaction(run_id):
            query = self._queries.rows_of(run_id, types).select(*self._columns, log.pk).order_by(log.created_at, log.pk)
            rows = self.database.execute(query).fetchall()
            locked = None
            while self.database.for_update and locked != rows:  # Rows that another process has added lack a lock.
                self.database.execute(query.for_update()).fetchall()
                locked, rows = rows, self.database.execute(query).fetchall()
            stored = [self._to_stored(row) for row in rows]
            pks: Dict[Tuple[str, str], List[int]] = {}
            for row in rows:
                pks.setdefault(tuple(row[1:3]), []).append(row[5])
            wanted, surplus = change(stored)
            check_texts(run_id, *(row.fragment for row in wanted))
            gone = [row[5] for row, each in zip(rows, stored) if each in surplus]
            for batch in batches(gone, DELETE_BATCH):
                log.delete().where(log.pk.in_(batch)).execute()
            for row in wanted:
                kept = [pk for pk in pks.get(row[1:3], ()) if pk not in gone]
                if kept:
                    self._check_size(run_id, row.fragment)
                    log.update(attribute_value=row.attribute_value).where(log.pk.in_(kept)).execute()
                else:
                    self._insert_stored(row)

    def delete(self, run_id: str, is_being_written: bool = False) -> int:
        """Delete all rows of a run, and return how many there were.

        Args:
            is_being_written: Whether other processes may write rows of the run at the same time.
        """
        total = self._delete_until_none_left(run_id)
        if is_being_written and self.database.has_concurrent_writers:
            # A statement that began before the run's own row was deleted may still add a row. A statement that begins
            # later finds no run, and writes nothing.
            time.sleep(DELETE_PAUSE)
            total += self._delete_until_none_left(run_id)
        return total

    def _delete_until_none_left(self, run_id: str) -> int:
        total = 0
        count = self._delete_once(run_id)
        while count:
            total += count
            count = self._delete_once(run_id)
        return total

    @retrying
    def _delete_once(self, run_id: str) -> int:
        with self._transaction(run_id):
            return int(self._log.delete().where(self._queries.comparable(self._log.run_id) == run_id).execute())

"""Write the rows of the table `db_log`."""

import datetime
import json
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

import peewee

from magnus_peewee_store.db.access import retrying
from magnus_peewee_store.db.backends.base import TABLE
from magnus_peewee_store.db.queries import Types
from magnus_peewee_store.db.reading import TableReader
from magnus_peewee_store.db.rows import Requirement, Row, StoredRow, check_texts
from magnus_peewee_store.exceptions import ValueTooLargeError
from magnus_peewee_store.times import utcnow

# The maximum size of the rows in one statement. They fit into MySQL's packet, even if escaping quadruples their size.
BATCH_BYTES = 100_000
DELETE_BATCH = 500  # the maximum number of rows that one DELETE names
DELETE_PAUSE = 0.2  # seconds: longer than a statement takes
STATEMENT_OVERHEAD = 8192  # bytes of a statement besides the value that it writes


class LogTable(TableReader):
    """The rows of `db_log` in one database, to read and to write.

    Args:
        database: The database. The first use connects to it, and creates the table if it is missing.
    """

    def insert(self, run_id: str, row: Row) -> bool:
        """Write a row, unless the run already has a row with its type and key. Return True if the row was written."""
        check_texts(run_id, row)
        now = utcnow()
        return self._retry_on_table(lambda attempt: self._insert_new(run_id, row, now, is_retry=attempt > 0))

    @retrying
    def upsert(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement] = ()) -> bool:
        """Write rows, all or none. Each replaces the run's row of the same type and key.

        Returns:
            False, and nothing is written, if the run lacks a row that `requires` names.
        """
        check_texts(run_id, *rows)
        batches = [rows] if len(rows) == 1 else self._batches(rows)
        if len(batches) == 1 and self._has_unique_index:
            return self._upsert(run_id, batches[0], requires)
        with self._run_lock(run_id):
            return self._lock(run_id, rows, requires) and all(self._upsert(run_id, batch) for batch in batches)

    @retrying
    def update(self, run_id: str, types: Types, name: str, change: Callable[[str], str]) -> bool:
        """Replace the value of a row by `change(value)`, atomically.

        Returns:
            False if there is no such row.
        """
        check_texts(run_id, name=name)
        with self._run_lock(run_id):
            rows = self._read(run_id, types, name, is_locking=True)
            return bool(rows) and self._upsert(run_id, [(*rows[-1][:2], change(rows[-1][2]))])

    def upsert_once(
        self,
        run_id: str,
        make_row: Callable[[datetime.datetime], Row],
        requires: Sequence[Requirement],
        timeout: float,
    ) -> bool:
        """Write a row like `upsert`, but without retries. See `Backend.try_once`.

        Args:
            make_row: Returns the row, given the time in UTC by the database's clock.
            requires: The rows that the run must have.
            timeout: How many seconds to wait for another thread.

        Returns:
            False, and nothing is written, if the run lacks a row that `requires` names.
        """

        def write() -> bool:
            self._ensure_table()
            row = make_row(self.database.now())
            if self._has_unique_index:
                return self._upsert(run_id, [row], requires)
            with self._run_lock(run_id):
                return all(self._has(run_id, *each) for each in requires) and self._upsert(run_id, [row])

        return self.database.try_once(write, timeout)

    def insert_run(self, rows: Sequence[StoredRow]) -> bool:
        """Write the rows of one run with their created_at, all or none.

        Returns:
            False, and nothing is written, if the run already has a row.
        """
        check_texts(rows[0].run_id, *(row.fragment for row in rows))
        return self._retry_on_table(lambda attempt: self._insert_run(rows, is_retry=attempt > 0))

    @retrying
    def replace_run(self, rows: Sequence[StoredRow], except_types: Types) -> None:
        """Replace all rows of a run by these rows, with their created_at, in one transaction.

        Args:
            rows: The rows of one run.
            except_types: Rows of these types stay as they are.
        """
        run_id = rows[0].run_id
        log = self._log
        wanted = set(rows)
        with self._run_lock(run_id):
            stored = self._queries.rows_of(run_id).where(log.attribute_type.not_in(except_types))
            pks = {self._to_stored(row): row[5] for row in stored.select(*self._stored, log.pk).tuples()}
            surplus = [pk for row, pk in pks.items() if row not in wanted]
            for start in range(0, len(surplus), DELETE_BATCH):
                log.delete().where(log.pk.in_(surplus[start : start + DELETE_BATCH])).execute()
            for row in rows:
                if row not in pks:
                    self._check_size(run_id, row.fragment)
                    self._queries.insert_stored().run(**row._asdict())

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
        with self._run_lock(run_id):
            return int(self._log.delete().where(self._queries.comparable(self._log.run_id) == run_id).execute())

    def _run_lock(self, run_id: str) -> Any:
        """Open a transaction. It also locks the run if the table has no unique index."""
        return self.database.atomic() if self._has_unique_index else self.database.run_lock(run_id)

    def _insert_new(self, run_id: str, row: Row, now: datetime.datetime, is_retry: bool) -> bool:
        types, name = (row[0],), row[1]
        self._check_size(run_id, row)
        try:
            if self._has_unique_index:
                self._insert_row(now, run_id, row)
                return True
            with self._run_lock(run_id):
                if not self._has(run_id, types, name):
                    self._insert_row(now, run_id, row)
                    return True
        except peewee.IntegrityError:
            if not self._has(run_id, types, name):
                raise
        # The row was written by another process, or by an earlier attempt whose acknowledgement was lost.
        return is_retry and self._is_stored(run_id, row, now)

    def _insert_row(self, now: datetime.datetime, run_id: str, row: Row) -> None:
        attribute_type, attribute_key, attribute_value = row
        self._queries.insert().run(
            now=str(now),
            run_id=run_id,
            attribute_type=attribute_type,
            attribute_key=attribute_key,
            attribute_value=attribute_value,
        )

    def _is_stored(self, run_id: str, row: Row, created_at: Optional[datetime.datetime] = None) -> bool:
        log = self._log
        stored = self._queries.rows_of(run_id, (row[0],), row[1]).where(log.attribute_value == row[2])
        if created_at:
            stored = stored.where(log.created_at == created_at)
        return bool(stored.exists())

    def _insert_run(self, rows: Sequence[StoredRow], is_retry: bool) -> bool:
        first = rows[0]
        try:
            with self._run_lock(first.run_id):
                if not self._has(first.run_id):
                    for row in rows:
                        self._check_size(row.run_id, row.fragment)
                        self._queries.insert_stored().run(**row._asdict())
                    return True
        except peewee.IntegrityError:
            if not self._has(first.run_id):
                raise
        # See `_insert_new`.
        return is_retry and self._is_stored(first.run_id, first.fragment, first.created_at)

    def _batches(self, rows: Sequence[Row]) -> List[Sequence[Row]]:
        """Split rows into batches of one statement each. The last row for a key wins."""
        rows = list({row[:2]: row for row in rows}.values())
        if not (self._has_unique_index and self.database.has_json_rows):
            return [[row] for row in rows]
        batches: List[List[Row]] = []
        room = 0
        for row in rows:
            size = sum(map(len, row))
            room -= size
            if room < 0 or not batches:
                batches.append([])
                room = BATCH_BYTES - size
            batches[-1].append(row)
        return [*batches]

    def _lock(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement]) -> bool:
        """Lock the required rows. If the database locks in order, also lock the rows to write, to prevent deadlocks.

        Returns:
            False if the run lacks a row that `requires` names.
        """
        if not (self._has_unique_index and self.database.has_ordered_locks):
            return all(self._read(run_id, types, name, is_locking=True) for types, name in requires)
        keys = [row[:2] for row in rows] + [(each, name) for types, name in requires for each in types]
        locked = set(self._queries.lock().run(run_id=run_id, rows=json.dumps(keys, ensure_ascii=False)).fetchall())
        return all(any((each, name) in locked for each in types) for types, name in requires)

    def _upsert(self, run_id: str, rows: Sequence[Row], requires: Sequence[Requirement] = ()) -> bool:
        """Write a batch. Return False, and write nothing, if the run lacks a required row.

        Without the unique index, the caller must check the required rows.
        """
        for row in rows:
            self._check_size(run_id, row)
        if not self._has_unique_index:
            for row in rows:
                self._update_or_insert(run_id, row)
            return True
        values: Dict[str, Any] = {f"required_{number}": name for number, (_, name) in enumerate(requires)}
        if len(rows) == 1:
            values["attribute_type"], values["attribute_key"], values["attribute_value"] = rows[0]
        else:
            values["rows"] = json.dumps(rows, ensure_ascii=False)
        query = self._queries.insert_or_update(tuple(types for types, _ in requires), len(rows) > 1)
        cursor = query.run(run_id=run_id, now=str(utcnow()), **values)
        # MySQL does not count a row that already has the value.
        return cursor.rowcount > 0 or all(self._is_stored(run_id, row) for row in rows)

    def _update_or_insert(self, run_id: str, row: Row) -> None:
        log = self._log
        keys = [pk for (pk,) in self._queries.rows_of(run_id, (row[0],), row[1]).select(log.pk).tuples()]
        if keys:
            log.update(attribute_value=row[2]).where(log.pk.in_(keys)).execute()
        else:
            self._insert_row(utcnow(), run_id, row)

    def _check_size(self, run_id: str, row: Row) -> None:
        size = len(row[2].encode(errors="surrogatepass"))
        max_packet = self.database.max_packet
        if max_packet:
            # MySQL's drivers put a backslash before each of these characters.
            sent = size + sum(row[2].count(character) for character in "\"'\\") + STATEMENT_OVERHEAD
            if sent > max_packet:
                raise _value_too_large(
                    run_id,
                    row,
                    size,
                    f"A statement of {sent} bytes is more than the server of {self.database.masked_url} accepts "
                    f"({max_packet}). Raise its max_allowed_packet.",
                )
        max_value_bytes = self._queries.layout.max_value_bytes
        if max_value_bytes and size > max_value_bytes:
            raise _value_too_large(
                run_id,
                row,
                size,
                f"The table {TABLE} in {self.database.masked_url} accepts at most {max_value_bytes} bytes. "
                "Run create_tables, which widens the column.",
            )


def _value_too_large(run_id: str, row: Row, size: int, advice: str) -> ValueTooLargeError:
    return ValueTooLargeError(f"The {row[0]} '{row[1]}' of run '{run_id}' has {size} bytes. {advice}")

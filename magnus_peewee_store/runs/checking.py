"""Check a database."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Callable, Dict, List, Set

from magnus_peewee_store import fragments
from magnus_peewee_store.db.rows import StoredRow
from magnus_peewee_store.exceptions import UnreadableRowError
from magnus_peewee_store.runs.listing import BATCH_SIZE, batches, summarize
from magnus_peewee_store.runs.reading import UnreadableRow, has_ended
from magnus_peewee_store.store import DBStore

ROWS_PER_QUERY = 1000


@dataclass(frozen=True)
class CheckReport:
    """What `check` found in a database."""

    database: str
    """The masked connection string."""
    product: str
    """The name and version of the database product."""
    size: int
    """The size of the table with its indexes, in bytes."""
    missing: List[str]
    """Descriptions of what `create_tables` would create."""
    widen_pk: str
    """The SQL that widens the column pk; empty unless half of its numbers are used."""
    rows: Dict[str, int]
    """The number of rows by attribute_type."""
    runs: int
    """The number of runs."""
    without_own_row: List[str]
    """The runs without a row of their own."""
    duplicates: Dict[str, int]
    """The number of duplicate rows by run."""
    unreadable: List[UnreadableRow]
    """The rows that cannot be read."""
    stale: List[str]
    """The unfinished runs that are stale or were interrupted. They do not make the database unhealthy."""

    @property
    def is_healthy(self) -> bool:
        """True if nothing needs attention."""
        return not (self.missing or self.widen_pk or self.duplicates or self.unreadable or self.without_own_row)


def check(store: DBStore, progress: Callable[[int], Any] = lambda rows: None) -> CheckReport:
    """Read the whole table, which must exist, and report what needs attention. Nothing is changed.

    Args:
        progress: Called after each batch with its number of rows.
    """
    table = store.table
    rows: Dict[str, int] = {}
    run_ids: Set[str] = set()
    with_header: Set[str] = set()
    unreadable: List[UnreadableRow] = []
    unfinished: List[str] = []
    for batch in table.scan(ROWS_PER_QUERY):
        for row in batch:
            rows[row.attribute_type] = rows.get(row.attribute_type, 0) + 1
            run_ids.add(row.run_id)
            if row.attribute_type in fragments.RUN_LOG:
                with_header.add(row.run_id)
                if not has_ended(row):
                    unfinished.append(row.run_id)
            problem = _find_problem(row)
            if problem:
                unreadable.append(UnreadableRow(*row[:3], problem))
        progress(len(batch))
    return CheckReport(
        database=table.database.masked_url,
        product=table.version_string(),
        size=table.size(),
        missing=table.missing(),
        widen_pk=table.widen_pk(),
        rows=rows,
        runs=len(run_ids),
        without_own_row=sorted(run_ids - with_header, key=str),  # Other software may have written NULL.
        duplicates=table.duplicates(),
        unreadable=unreadable,
        stale=[
            run.run_id for batch in batches(unfinished, BATCH_SIZE) for run in summarize(store, batch) if run.is_stale
        ],
    )


def _find_problem(row: StoredRow) -> str:
    """Return why a row cannot be read; empty if it can."""
    try:
        fragments.parse(*row.fragment)
    except UnreadableRowError as error:
        return str(error)
    return "" if isinstance(row.created_at, datetime) else "its created_at is not a time"

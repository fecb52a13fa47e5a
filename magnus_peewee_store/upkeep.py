"""Looking after a database of runs: check it, choose old runs, delete runs."""

import time
from datetime import datetime, timedelta
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

from magnus_peewee_store import fragments
from magnus_peewee_store.db import TABLE, utcnow
from magnus_peewee_store.runs import AT_ONCE, Unreadable, chunks, has_ended
from magnus_peewee_store.store import DBStore

A_DAY = timedelta(days=1)
ROWS_AT_ONCE = 1000


class Prunable(NamedTuple):
    """What `prunable` finds."""

    run_ids: List[str]
    """The runs that may go, oldest first."""
    running: List[str]
    """Those that might go, were they not running still, as far as their rows tell."""


def check(store: DBStore, progress: Callable[[int], Any] = lambda rows: None) -> Dict[str, Any]:
    """Look whether all is well with a database: it reads the whole table, and changes nothing.

    Args:
        store: The store, on a database that has the table.
        progress: Called with the number of rows, each time that some were read.

    Returns:
        `database`, as it may be shown; `product`, its name and version; `size` of the table in bytes; `missing`, what
        `create_tables` would make; `rows` by type; the number of `runs`; `headless`, the runs without a row of their
        own; `duplicates`, how many rows too many by run; `unreadable`, a dictionary a row; and whether all is `well`.
    """
    table, database = store.table, store.table.database
    rows: Dict[str, int] = {}
    run_ids: Set[str] = set()
    with_header: Set[str] = set()
    unreadable: List[Dict[str, Any]] = []
    for some in table.scan(ROWS_AT_ONCE):
        for row in some:
            rows[row.attribute_type] = rows.get(row.attribute_type, 0) + 1
            run_ids.add(row.run_id)
            if row.attribute_type in fragments.RUN_LOG:
                with_header.add(row.run_id)
            reason = fragments.why_unreadable(*row[1:4])
            if not reason and not isinstance(row.created_at, datetime):
                reason = "its created_at is not a time"
            if reason:
                unreadable.append(Unreadable(*row[:3], reason)._asdict())
        progress(len(some))
    missing, duplicates = table.missing(), table.duplicates()
    headless = sorted(run_ids - with_header, key=str)  # NULL is none of ours, but may be there.
    return {
        "database": database.shown,
        "product": database.persistently(database.product),
        "size": database.persistently(lambda: database.size_of(TABLE)),
        "missing": missing,
        "rows": rows,
        "runs": len(run_ids),
        "headless": headless,
        "duplicates": duplicates,
        "unreadable": unreadable,
        "well": not (missing or duplicates or unreadable or headless),
    }


def prunable(
    store: DBStore,
    older_than: Optional[timedelta] = None,
    keep: Optional[int] = None,
    progress: Callable[[int], Any] = lambda runs: None,
) -> Prunable:
    """Choose the runs that may go: all that are older than that and not among the newest so many.

    A run that has not ended is left alone while any of its rows is younger than that, or than a day: it may be running.

    Args:
        store: The store.
        older_than: How old; None if age does not matter.
        keep: How many of the newest stay; None if only age matters.
        progress: Called with the number of runs, each time that some were looked at.

    Returns:
        The runs that may go, and those that are left alone although they are so old.
    """
    now = utcnow()
    found = dict(store.table.runs(fragments.RUN_LOG))  # Of a run with two headers the older counts.
    old = [
        run_id
        for run_id, started in list(found.items())[keep or 0 :]
        if older_than is None or (isinstance(started, datetime) and now - started > older_than)
    ]
    quiet_since = now - max(A_DAY, older_than or A_DAY)
    chosen = Prunable([], [])
    for some in chunks(old[::-1], AT_ONCE):
        headers = store.table.read_runs(some, fragments.RUN_LOG)
        ended = {row.run_id for row in headers if has_ended(row)}
        for run_id in some:
            quiet = run_id in ended or _newest_row(store, run_id) < quiet_since
            (chosen.run_ids if quiet else chosen.running).append(run_id)
        progress(len(some))
    return chosen


def delete_runs(store: DBStore, run_ids: Sequence[str]) -> Iterator[int]:
    """Delete runs one by one, each as a whole, and leave the database to the pipelines as long in between.

    Args:
        store: The store.
        run_ids: The runs.

    Yields:
        After each run how many rows it had.
    """
    for run_id in run_ids:
        start = time.monotonic()
        yield store.table.delete(run_id)
        # SQLite has one writer at a time: whoever waits for it gets his turn.
        time.sleep(time.monotonic() - start)


def _newest_row(store: DBStore, run_id: str) -> datetime:
    times = [row.created_at for row in store.table.read_runs([run_id])]
    return max((time for time in times if isinstance(time, datetime)), default=datetime.min)

"""End runs that died: write the status that their processes could not write."""

import functools
import json
from datetime import datetime
from typing import Any, Dict, List

from magnus import defaults

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import RunNotFoundError, UnreadableRowError
from magnus_peewee_store.origin import this_process
from magnus_peewee_store.runs.annotations import add_note
from magnus_peewee_store.store import DBStore


def mark_failed(store: DBStore, run_id: str) -> List[str]:
    """End a run that died. The status of the run and of its unfinished steps and branches becomes FAIL.

    Each of those steps gets a message that says who marked it and when. The run gets a note. Steps and branches that
    have ended do not change. This function does not check whether a process still works on the run.

    Args:
        run_id: The whole id.

    Returns:
        The internal names of the steps and branches that were unfinished.

    Raises:
        RunNotFoundError: If there is no such run, or its own row cannot be read.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run", status="PROCESSING")
        >>> runs.mark_failed(store, "my-run")
        []
        >>> store.get_run_log_by_id("my-run").status
        'FAIL'
    """
    me = this_process()
    message = f"Marked as failed by {me.user} on {me.host}, {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}"
    ended: List[str] = []
    # The run's own row comes last, so that an interrupted call can be repeated.
    for attribute_type, name, value in store.table.read(run_id, fragments.BRANCH + fragments.STEP):
        if _is_unfinished(attribute_type, name, value):
            changes = {"message": message} if attribute_type in fragments.STEP else {}
            store.table.update(run_id, (attribute_type,), name, functools.partial(_fail, changes))
            ended.append(name)
    header = store.table.read(run_id, fragments.RUN_LOG)
    if not header or not _is_readable(*header[-1]):
        raise RunNotFoundError(f"There is no run '{run_id}' whose own row can be read.")
    if _is_unfinished(*header[-1]):
        store.update_run_log_status(run_id, defaults.FAIL)
        add_note(store, run_id, "Marked as failed")
    return ended


def _is_readable(*row: Any) -> bool:
    try:
        return bool(fragments.parse(*row))
    except UnreadableRowError:
        return False


def _is_unfinished(*row: Any) -> bool:
    return _is_readable(*row) and fragments.parse(*row).status not in fragments.ENDED


def _fail(changes: Dict[str, str], value: str) -> str:
    """Return the value of a row with the status FAIL and other changes."""
    log = json.loads(value)
    if log["status"] in fragments.ENDED:  # A process that is still alive has ended it in the meantime.
        return value
    return json.dumps({**log, **changes, "status": defaults.FAIL})

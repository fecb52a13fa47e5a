"""Find a run by its id, by the beginning of its id, or by its place among the newest runs."""

import contextlib
import difflib
import json
import re
from typing import Optional, Sequence

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import RunNotFoundError, UnreadableRowError
from magnus_peewee_store.runs.statuses import parse_status
from magnus_peewee_store.store import DBStore


def find_run(store: DBStore, run_id: str) -> str:
    """Return the whole id of a run.

    Args:
        store: The store.
        run_id: The id; a beginning of it that no other run shares; `latest`, or `-1`, for the newest run, `-2` for the
            one before it; or `latest:FAIL` for the newest run with a status.

    Raises:
        RunNotFoundError: If there is no such run, or several ids begin so.
        ConditionError: If `latest:` is followed by no status.
    """
    if has_run(store, run_id):
        return run_id
    place = find_by_place(store, run_id)
    if place:
        return place
    rows = store.table.runs(fragments.RUN_LOG, prefix=run_id, limit=10) if run_id else []
    found = list(dict.fromkeys(each for each, _ in rows))
    if len(found) == 1:
        return found[0]
    if found:
        more = ", ..." if len(found) > 9 else ""
        message = f"More than one run begins with '{run_id}': {', '.join(found[:9])}{more}"
        raise RunNotFoundError(message, is_ambiguous=True)
    known = [each for each, _ in store.table.runs(fragments.RUN_LOG, limit=1000)]
    raise RunNotFoundError(f"There is no run '{run_id}'.{suggest(run_id, known)}")


def find_by_place(store: DBStore, text: str) -> Optional[str]:
    """Return the id of the run that `latest`, `latest:FAIL` or `-1` names; None if the text is none of these, or an id.

    Raises:
        RunNotFoundError: If there are not so many runs.
        ConditionError: If `latest:` is followed by no status.
    """
    is_number = re.fullmatch("-[1-9][0-9]{0,5}", text)
    if not (is_number or text.startswith("latest")) or has_run(store, text):
        return None
    if text.startswith("latest:"):
        return _find_by_status(store, text, parse_status(text[len("latest:") :]))
    if not is_number and text != "latest":
        return None
    number = -int(text) if is_number else 1
    found = list(dict.fromkeys(run_id for run_id, _ in store.table.runs(fragments.RUN_LOG, limit=number)))
    if len(found) < number:
        raise RunNotFoundError(f"There is no run '{text}': the database has {len(found):,}.")
    return found[-1]


def _find_by_status(store: DBStore, text: str, status: str) -> str:
    for limit in (10, None):  # Usually one of the first has it. The text may also stand elsewhere in the run's row.
        for run_id, _ in store.table.runs(fragments.RUN_LOG, containing=[json.dumps(status)], limit=limit):
            with contextlib.suppress(UnreadableRowError):
                if fragments.parse(*store.table.read(run_id, fragments.RUN_LOG)[-1]).status == status:
                    return run_id
    raise RunNotFoundError(f"There is no run '{text}', since no run has the status '{status}'.")


def has_run(store: DBStore, run_id: str) -> bool:
    """Return True if there is a run with exactly this id."""
    return store.table.has(run_id, fragments.TYPES)


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a sentence with the known names that are nearest to a name, after a space; empty if none is near."""
    # A shortened name is compared with the beginnings of the known names, too.
    beginnings = {each[: len(name)]: each for each in reversed(known) if name}
    near = difflib.get_close_matches(name, known, n=3) or difflib.get_close_matches(name, beginnings, n=3)
    meant = dict.fromkeys(beginnings.get(each, each) if each not in known else each for each in near)
    return f" Did you mean {' or '.join(meant)}?" if meant else ""

"""Find a run by its id, by the beginning of its id, or by its place among the newest runs."""

import contextlib
import difflib
import json
import re
from typing import List, Optional, Sequence

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import RunNotFoundError, UnreadableRowError
from magnus_peewee_store.runs.statuses import parse_status
from magnus_peewee_store.store import DBStore


def find_run(store: DBStore, run_id: str) -> str:
    """Return the whole id of a run.

    Args:
        run_id: The id, or a beginning of it that no other run shares. `latest` and `-1` mean the newest run, `-2` the
            run before it, and `latest:FAIL` the newest run with this status.

    Raises:
        RunNotFoundError: If there is no such run, or several ids begin like this.
        ConditionError: If the text after `latest:` is not a status.
    """
    if has_run(store, run_id):
        return run_id
    found_by_place = find_by_place(store, run_id)
    if found_by_place:
        return found_by_place
    rows = store.table.runs(fragments.RUN_LOG, prefix=run_id, limit=10) if run_id else []
    found = list(dict.fromkeys(each for each, _ in rows))
    if len(found) == 1:
        return found[0]
    if found:
        more = ", ..." if len(found) > 9 else ""
        message = f"More than one run begins with '{run_id}': {', '.join(found[:9])}{more}"
        raise RunNotFoundError(message, nearest=found[:9], is_ambiguous=True)
    nearest = _nearest(run_id, [each for each, _ in store.table.runs(fragments.RUN_LOG, limit=1000)])
    raise RunNotFoundError(f"There is no run '{run_id}'.{_question(nearest)}", nearest)


def find_by_place(store: DBStore, text: str) -> Optional[str]:
    """Return the id of the run that `latest`, `latest:FAIL` or `-1` names.

    Returns:
        The whole id; None if the text has none of these forms, or is itself the id of a run.

    Raises:
        RunNotFoundError: If the database has fewer runs, or none with the status.
        ConditionError: If the text after `latest:` is not a status.
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
    for limit in (10, None):  # Usually one of the newest 10 runs has the status.
        # The text of the status may also occur elsewhere in the run's row.
        for run_id, _ in store.table.runs(fragments.RUN_LOG, containing=[json.dumps(status)], limit=limit):
            with contextlib.suppress(UnreadableRowError):
                if fragments.parse(*store.table.read(run_id, fragments.RUN_LOG)[-1]).status == status:
                    return run_id
    raise RunNotFoundError(f"There is no run '{text}', since no run has the status '{status}'.")


def has_run(store: DBStore, run_id: str) -> bool:
    """Return True if there is a run with exactly this id."""
    return store.table.has(run_id, fragments.TYPES)


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a space and a question with the known names that are nearest to a name; empty if no name is near."""
    return _question(_nearest(name, known))


def _nearest(name: str, known: Sequence[str]) -> List[str]:
    nearest = difflib.get_close_matches(name, known, n=3)
    if not nearest and name:
        # The name may be a mistyped beginning of a known name. If several names begin alike, the first one counts.
        by_beginning = {each[: len(name)]: each for each in reversed(known)}
        nearest = [by_beginning[each] for each in difflib.get_close_matches(name, by_beginning, n=3)]
    return list(dict.fromkeys(nearest))


def _question(nearest: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(nearest)}?" if nearest else ""

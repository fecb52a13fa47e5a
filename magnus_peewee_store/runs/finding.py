"""Find a run by its id, or by the beginning of its id."""

import difflib
from typing import Sequence

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import RunNotFoundError
from magnus_peewee_store.store import DBStore


def find_run(store: DBStore, run_id: str) -> str:
    """Return the whole id of a run.

    Args:
        store: The store.
        run_id: The id, or a beginning of it that no other run shares.

    Raises:
        RunNotFoundError: If there is no such run, or several ids begin so.
    """
    if has_run(store, run_id):
        return run_id
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

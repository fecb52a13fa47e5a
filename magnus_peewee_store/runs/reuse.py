"""Which re-run reuses the results of which run."""

from typing import Collection, Dict, Iterable, Iterator, List, Mapping

from magnus_peewee_store import fragments
from magnus_peewee_store.store import DBStore

RERUN_BATCH = 200  # re-runs whose steps are looked at in one query

# As the store writes them. A row of other software has another form, and is parsed.
_NO_ORIGINAL = ('"original_run_id": "", "status"', '"original_run_id": null, "status"')
_NOT_MOCK = ('"mock":false,"code_identities"', '"mock": false, "code_identities"')


def read_originals(store: DBStore) -> Dict[str, str]:
    """Return the id of the run that each re-run takes results from. That run may be gone.

    An ended re-run is left out if it ran all of its steps itself. An unfinished one may still reuse steps. The number
    of queries depends on the number of re-runs only: one, and one for each `RERUN_BATCH` of those that have ended.
    """
    originals: Dict[str, str] = {}
    ended: List[str] = []
    for row in store.table.find(fragments.RUN_LOG, without=_NO_ORIGINAL):
        run_log = fragments.parse_or_none(*row.fragment)
        if run_log and run_log.original_run_id not in (None, "", row.run_id):
            originals[row.run_id] = run_log.original_run_id
            if run_log.status in fragments.ENDED:
                ended.append(row.run_id)
    for start in range(0, len(ended), RERUN_BATCH):
        batch = ended[start : start + RERUN_BATCH]
        reusing = {row.run_id for row in store.table.find(fragments.STEP, without=_NOT_MOCK, run_ids=batch)}
        for run_id in batch:
            if run_id not in reusing:
                originals.pop(run_id, None)
    return originals


def find_reused(originals: Mapping[str, str], run_ids: Collection[str]) -> Dict[str, List[str]]:
    """Return which of these runs other runs take results from, also through several re-runs.

    Args:
        originals: What `read_originals` returned.

    Returns:
        The ids of the re-runs, without those in `run_ids`, by the id of the run that they take results from.
    """
    chosen = set(run_ids)
    reused: Dict[str, List[str]] = {}
    for rerun in originals:
        if rerun not in chosen:
            for run_id in originals_of(rerun, originals):
                if run_id in chosen:
                    reused.setdefault(run_id, []).append(rerun)
    return reused


def add_originals(store: DBStore, run_ids: Iterable[str]) -> Dict[str, str]:
    """Add the existing runs that runs take results from. Each of these comes before its re-runs.

    Returns:
        By the id of each run, why it was added; empty for the given runs.
    """
    run_ids = list(run_ids)
    originals, added = read_originals(store), dict.fromkeys(run_ids, "")
    before: Dict[str, str] = {}
    for rerun in run_ids:
        for run_id in reversed(list(originals_of(rerun, originals))):
            if run_id not in added and run_id not in before and store.table.has(run_id, fragments.TYPES):
                before[run_id] = f"taken along, because '{rerun}' reuses its steps"
    return {**before, **added}


def originals_of(run_id: str, originals: Mapping[str, str]) -> Iterator[str]:
    """Yield the run that a re-run takes results from, the run that this one takes results from, and so on."""
    seen = {run_id}
    while run_id in originals and originals[run_id] not in seen:
        run_id = originals[run_id]
        seen.add(run_id)
        yield run_id

"""Find what steps printed, which runs read or wrote a file, and which runs a run depends on."""

import errno
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Collection, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from magnus import utils
from magnus.datastore import StepLog

from magnus_peewee_store import fragments
from magnus_peewee_store.db.whole_runs import batches
from magnus_peewee_store.logs import steps_of
from magnus_peewee_store.runs.read import read_run
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import from_created_at

# The name of a file that holds the output of a step contains this. In a map, the value of the branch follows it.
OUTPUT_FILE = ".execution.log"
SHORTEST_HASH = 6  # digits
RERUN_BATCH = 200  # re-runs whose steps are looked at in one query

# As the store writes them. A row of other software has another form, and is parsed.
_NO_ORIGINAL = ('"original_run_id": "", "status"', '"original_run_id": null, "status"')
_NOT_MOCK = ('"mock":false,"code_identities"', '"mock": false, "code_identities"')


class DataUse(NamedTuple):
    """A step of a run that read or wrote some content."""

    run_id: str
    step: str
    """The internal name of the step."""
    stage: str
    """`get` if it read the content, `put` if it wrote it."""
    name: str
    """The name of the file."""
    data_hash: str
    started: Optional[datetime]
    """When the step started, in UTC."""


class DataVersion(NamedTuple):
    """A content that a catalogued file has had."""

    data_hash: str
    first_seen: Optional[datetime]
    """When a step first used it, in UTC."""
    last_seen: Optional[datetime]
    """When a step last used it, in UTC."""
    run_ids: Tuple[str, ...]
    """The runs that used it, oldest first."""


class Input(NamedTuple):
    """A content that a run read, and that another run wrote first."""

    run_id: str
    """The run that read it."""
    name: str
    """The name of the file in this run."""
    source: DataUse
    """The step that wrote it first."""


def hash_of(file_or_hash: str) -> Optional[str]:
    """Return the hash that magnus computes of a file. Return a hash, or its beginning, in lower case; else None.

    Raise an IsADirectoryError for a folder.
    """
    if os.path.isdir(file_or_hash):
        raise IsADirectoryError(errno.EISDIR, "It is a folder. Name a file", file_or_hash)
    if os.path.isfile(file_or_hash):
        return str(utils.get_data_hash(file_or_hash))
    is_hash = re.fullmatch(rf"[0-9a-fA-F]{{{SHORTEST_HASH},64}}", file_or_hash)
    return file_or_hash.lower() if is_hash else None


class Output(NamedTuple):
    """The end of a file with the output of a step."""

    text: str = ""
    problem: str = ""
    """Why there is no text."""
    left_out: int = 0
    """How many bytes the file has before the text."""


def read_output(catalog: Path, folders: Iterable[Path], name: str, limit: int) -> Output:
    """Read the end of a file that `output_files` names, at most `limit` bytes.

    A row may name any path. So the reader names the catalog, and a file outside of the run's folders is not opened.
    """
    try:
        path = Path(os.path.realpath(catalog / name))
        is_inside = any(Path(os.path.realpath(folder)) in path.parents for folder in folders)
        if not is_inside or os.path.isabs(name):
            return Output(problem=f"Not shown: '{name}' is outside of the run's folder in the catalog.")
        if not os.path.isfile(path):
            return Output(problem=f"The catalog has no file '{name}'.")
        with open(path, "rb") as file:
            left_out = file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            return Output(file.read(limit).decode(errors="replace"), left_out=left_out)
    except (OSError, ValueError) as error:
        return Output(problem=f"The file '{name}' cannot be read: {error}.")


def lineage(store: DBStore, file_or_hash: Union[str, Path]) -> List[DataUse]:
    """Return the steps that read or wrote some content, oldest first, as the catalog recorded it.

    Args:
        file_or_hash: The path of a file; the SHA-256 hash of the content, or at least 6 digits of its beginning; or the
            name of a catalogued file, which means every content that the file has had.

    Raises:
        FileNotFoundError: If it is none of these.
        IsADirectoryError: If it is a folder.
    """
    text = os.fspath(file_or_hash)
    data_hash = hash_of(text)
    uses = _uses_of_content(store, [data_hash]) if data_hash else []
    if uses or (data_hash and os.path.isfile(text)):
        return uses
    uses = _uses_of_name(store, text)
    if not uses and not data_hash:
        message = f"There is no such file, no run has catalogued one, and it is not a hash of {SHORTEST_HASH} digits"
        raise FileNotFoundError(errno.ENOENT, message, text)
    return uses


def versions(store: DBStore, name: str) -> List[DataVersion]:
    """Return the contents that a catalogued file has had, in the order in which they were first seen.

    Args:
        name: The name of the file in the catalog, such as `data/sales.csv`, or the last parts of it. magnus leaves out
            the data folder of what a step gets, so a name that is the end of this name counts, too.

    Example:
        >>> from magnus.datastore import DataCatalog, StepLog
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> for run_id, data_hash in (("first", "7d865e"), ("second", "15fa02")):
        ...     _ = store.create_run_log(run_id)
        ...     data = DataCatalog(name="data/sales.csv", data_hash=data_hash, stage="put")
        ...     store.add_step_log(StepLog(name="load", internal_name="load", data_catalog=[data]), run_id)
        >>> [(version.data_hash, version.run_ids) for version in runs.versions(store, "sales.csv")]
        [('7d865e', ('first',)), ('15fa02', ('second',))]
    """
    uses_of: Dict[str, List[DataUse]] = {}
    for use in _uses_of_name(store, name):
        uses_of.setdefault(use.data_hash, []).append(use)
    return [
        DataVersion(data_hash, uses[0].started, uses[-1].started, tuple(dict.fromkeys(use.run_id for use in uses)))
        for data_hash, uses in uses_of.items()
    ]


def upstream(store: DBStore, run_id: str) -> List[Input]:
    """Return the inputs of a run that other runs wrote, the inputs of those runs, and so on.

    What a run read, its steps got from the catalog. A content comes from the step that wrote it first, even if the run
    has written it again: a step gets only what a step of its own run has put into the catalog.

    Raises:
        RunNotFoundError: If there is no such run.
    """
    found: List[Input] = []
    unread, known = [run_id], {run_id}
    while unread:
        reader = unread.pop(0)
        names = {
            data.data_hash: data.name
            for step in steps_of(read_run(store, reader).complete_log)
            for data in step.data_catalog
            if data.stage == "get" and data.data_hash
        }
        for source in _first_writers(store, list(names)):
            if source.run_id != reader:
                found.append(Input(reader, names[source.data_hash], source))
                if source.run_id not in known:
                    known.add(source.run_id)
                    unread.append(source.run_id)
    return found


def _first_writers(store: DBStore, hashes: Sequence[str]) -> List[DataUse]:
    uses = [use for batch in batches(hashes, 100) for use in _uses_of_content(store, batch)]
    # The newest first, so that the oldest counts.
    return list({use.data_hash: use for use in reversed(uses) if use.stage == "put"}.values())


def _uses_of_content(store: DBStore, hashes: Sequence[str]) -> List[DataUse]:
    return [use for use in _uses(store, *hashes) if use.data_hash.startswith(tuple(hashes))]


def _uses_of_name(store: DBStore, name: str) -> List[DataUse]:
    path = os.path.normpath(name)
    text = json.dumps(os.path.basename(path))[1:]
    # Other software may escape characters outside ASCII differently.
    uses = _uses(store, *([text] if path.isascii() else []))
    return [use for use in uses if f"/{use.name}".endswith(f"/{path}") or f"/{path}".endswith(f"/{use.name}")]


def _uses(store: DBStore, *texts: str) -> List[DataUse]:
    """Return what the steps used whose rows contain one of some texts, oldest first."""
    uses = []
    for row in store.table.find(fragments.STEP, *texts):
        step, started = fragments.parse_or_none(*row.fragment), from_created_at(row.created_at)
        for data in sorted(step.data_catalog if step else (), key=lambda data: (data.stage, data.name)):
            uses.append(DataUse(row.run_id, row.attribute_key, data.stage, data.name, data.data_hash, started))
    return uses


def output_files(step: StepLog) -> List[str]:
    """Return the files that hold the output of a step, as paths in the catalog. A row may name any path."""
    found = [data for data in step.data_catalog if OUTPUT_FILE in data.name and data.stage == "put"]
    return list(dict.fromkeys(data.catalog_relative_path for data in found))


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
    for batch in batches(ended, RERUN_BATCH):
        reusing = {row.run_id for row in store.table.find(fragments.STEP, without=_NOT_MOCK, run_ids=batch)}
        for run_id in {*batch} - reusing:
            originals.pop(run_id, None)
    return originals


def find_reused(originals: Mapping[str, str], run_ids: Collection[str]) -> Dict[str, List[str]]:
    """Return the other runs that take results from these runs, also through several re-runs, by these runs' ids."""
    chosen = set(run_ids)
    reused: Dict[str, List[str]] = {}
    for rerun in originals:
        if rerun not in chosen:
            for run_id in originals_of(rerun, originals):
                if run_id in chosen:
                    reused.setdefault(run_id, []).append(rerun)
    return reused


def add_originals(store: DBStore, run_ids: Iterable[str]) -> Dict[str, str]:
    """Return the runs and, before them, the existing runs that they take results from, each with why it was added."""
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

"""Trace the output of steps, and which runs read or wrote a file."""

import errno
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

from magnus import utils
from magnus.datastore import StepLog

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import UnreadableRowError
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import from_created_at

# The name of a file that holds the output of a step contains this. In a map, the value of the branch follows it.
OUTPUT_FILE = ".execution.log"
SHORTEST_HASH = 6  # digits


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


def hash_of(file_or_hash: str) -> str:
    """Return the hash of a file, as magnus computes it. A hash, or the beginning of one, is returned in lower case.

    Raises:
        FileNotFoundError: If the text is neither a file nor a hash.
        IsADirectoryError: If it is a folder.
    """
    if os.path.isdir(file_or_hash):
        raise IsADirectoryError(errno.EISDIR, "It is a folder. Name a file", file_or_hash)
    if os.path.isfile(file_or_hash):
        return str(utils.get_data_hash(file_or_hash))
    if re.fullmatch(rf"[0-9a-fA-F]{{{SHORTEST_HASH},64}}", file_or_hash):
        return file_or_hash.lower()
    raise FileNotFoundError(
        errno.ENOENT, f"There is no such file, and it is not a hash of {SHORTEST_HASH} to 64 digits", file_or_hash
    )


def lineage(store: DBStore, data_hash: str) -> List[DataUse]:
    """Return the steps that read or wrote some content, oldest first, as the catalog recorded it.

    Args:
        data_hash: The SHA-256 hash of the content, or the beginning of it.
    """
    uses = []
    for row in store.table.find(fragments.STEP, data_hash):
        try:
            step: StepLog = fragments.parse(*row.fragment)
        except UnreadableRowError:
            continue
        for data in sorted(step.data_catalog, key=lambda data: (data.stage, data.name)):
            if data.data_hash.startswith(data_hash):
                started = from_created_at(row.created_at)
                uses.append(DataUse(row.run_id, row.attribute_key, data.stage, data.name, data.data_hash, started))
    return uses


def output_files(step: StepLog) -> Iterator[Path]:
    """Yield the files in the catalog that hold the output of a step, as magnus recorded them."""
    paths = [
        Path(data.catalog_handler_location, data.catalog_relative_path)
        for data in step.data_catalog
        if OUTPUT_FILE in data.name and data.stage == "put"
    ]
    yield from dict.fromkeys(paths)

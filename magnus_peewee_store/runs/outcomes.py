"""How the transfer of a run ended."""

from typing import NamedTuple

import peewee

# What a database raises for rows that it cannot store. A driver raises ValueError for NUL.
REFUSALS = (peewee.DataError, peewee.IntegrityError, ValueError)
WRITTEN, INCOMPLETE, UPDATED, SKIPPED, FAILED = "written", "incomplete", "updated", "skipped", "failed"


class Outcome(NamedTuple):
    """What happened to one run, or to one file that should contain a run."""

    name: str
    """The id of the run, or the path of the file."""
    status: str
    """One of these:

    - `written`
    - `incomplete`: it was written without rows that cannot be read.
    - `updated`: it was there before, and has been brought up to date.
    - `skipped`: it was there before, and was not changed.
    - `failed`
    """
    message: str = ""
    """Why it failed or is incomplete, or what else to know."""

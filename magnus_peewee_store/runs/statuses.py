"""The statuses of runs."""

from magnus import defaults

from magnus_peewee_store.exceptions import ConditionError
from magnus_peewee_store.fragments import ENDED

UNKNOWN = "UNKNOWN"  # the status of a run whose own row cannot be read
STATUSES = (defaults.CREATED, defaults.TRIGGERED, defaults.PROCESSING, *ENDED, UNKNOWN)


def parse_status(text: str) -> str:
    """Return a status as magnus writes it. Upper and lower case are the same.

    Raises:
        ConditionError: If there is no such status. The message lists the known ones.
    """
    status: str = {"FAILED": defaults.FAIL}.get(text.upper(), text.upper())
    if status not in STATUSES:
        raise ConditionError(f"'{text}' is not a status. The statuses are {', '.join(STATUSES)}.")
    return status

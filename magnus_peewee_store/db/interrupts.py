"""Distinguish interrupts of a call, such as Ctrl-C or a time limit, from the errors of a database."""

import os
import sys
from typing import Any, List, Optional

import peewee

from magnus_peewee_store.exceptions import RunLogStoreError

if sys.version_info >= (3, 10):
    _STANDARD_LIBRARY = sys.stdlib_module_names
else:
    _STANDARD_LIBRARY = {name.partition(".")[0] for name in os.listdir(os.path.dirname(os.__file__))}
    _STANDARD_LIBRARY.update(sys.builtin_module_names)
# The packages in which errors of a database, a driver or the network are raised.
KNOWN_PACKAGES = frozenset(_STANDARD_LIBRARY).union(
    ("peewee", "playhouse", "magnus_peewee_store"),
    ("mysql", "MySQLdb", "psycopg", "psycopg2", "psycopg_binary", "psycopg_c", "pymysql"),
)

_driver_errors: Any = peewee.ExceptionWrapper(peewee.EXCEPTIONS)  # type: ignore[attr-defined,unused-ignore]


def is_interrupt(error: BaseException) -> bool:
    """Return True for an exception that comes from outside of the call: Ctrl-C, an exit, a time limit.

    A signal handler may raise a TimeoutError, as sockets do. So it also counts where the exception was raised.
    """
    if not isinstance(error, Exception):
        return True
    # PEP 249: each error of a driver has a base class of this name.
    if any(base.__name__ in ("Error", "PeeweeException", "RunLogStoreError") for base in type(error).__mro__):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    raised_in = "builtins" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__"))
    return not KNOWN_PACKAGES.issuperset(name.partition(".")[0] for name in (type(error).__module__, raised_in))


def find_interrupt(error: BaseException, handled: Optional[BaseException]) -> Optional[BaseException]:
    """Return the interrupt among an error and its causes, but not `handled`, which was raised before the call."""
    causes: List[Optional[BaseException]] = [error]
    for cause in causes:
        if cause is not None and cause is not handled:
            if is_interrupt(cause):
                return cause
            causes += [each for each in (cause.__cause__, cause.__context__) if each not in causes]
    return None


def as_peewee_error(error: Exception) -> Exception:
    """Return peewee's error for an error of a driver. peewee skips those of fetching rows, and rare classes."""
    if isinstance(error, (peewee.PeeweeException, RunLogStoreError)):
        return error
    try:
        with _driver_errors:
            raise error
    except Exception as converted:
        is_of_driver = any(base.__name__ == "Error" for base in type(converted).__mro__)  # PEP 249
        return peewee.OperationalError(error, *error.args) if is_of_driver else converted

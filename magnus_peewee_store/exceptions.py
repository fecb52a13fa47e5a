"""The errors that this package raises."""

import peewee


class RunLogStoreError(Exception):
    """Base class of all errors of this package."""


class ConfigurationError(RunLogStoreError, ValueError):
    """The configuration is not valid, or does not suit the executor. The message says what to write."""


class CannotConnectError(RunLogStoreError, peewee.OperationalError):
    """Cannot connect to the database. The message gives the masked URL and the reason.

    Args:
        is_transient: Whether a later attempt may succeed.
    """

    def __init__(self, message: str, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class MissingTableError(RunLogStoreError, peewee.OperationalError):
    """The table, its schema or its SQLite file does not exist. The message says where it was looked for."""


class WrongTableError(RunLogStoreError, peewee.ProgrammingError):
    """`db_log` is a view or another program's table, or has duplicate rows. The message says what is wrong with it."""


class PrivilegeError(RunLogStoreError, peewee.OperationalError):
    """The role lacks a privilege, or the user may not write the SQLite file. The message says what can be run."""


class CorruptFileError(RunLogStoreError, peewee.DatabaseError):
    """The SQLite file is damaged, or is not an SQLite file. The message says how to recover its rows."""


class InvalidValueError(RunLogStoreError, TypeError, ValueError):
    """A value, a run id or a name cannot be stored. The message names it, and the limit if it is too large."""


class UnreadableRowError(RunLogStoreError, ValueError):
    """A row does not hold what magnus writes. The message says what is wrong, without quoting the row's value."""


class RunIsReusedError(RunLogStoreError, ValueError):
    """A run cannot be deleted, because re-runs take results from it. The message names them."""


class ConditionError(RunLogStoreError, ValueError):
    """A condition on runs is not valid. The message says what to write."""


class MissingLibraryError(RunLogStoreError, ImportError):
    """An optional library is not installed. The message says how to install it."""

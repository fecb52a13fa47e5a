"""The errors that this package raises."""

from datetime import datetime
from typing import Sequence

import peewee
from magnus import exceptions


class RunLogStoreError(Exception):
    """Base class of all errors of this package."""


class ConfigurationError(RunLogStoreError, ValueError):
    """The configuration of the store is not valid. The message says what to write."""


class ConnectionStringError(ConfigurationError):
    """The connection string is not valid, or does not suit the executor. The message says what to write."""


class ParallelExecutionError(ConfigurationError):
    """The executor `local-parallel` cannot run this pipeline here. The message says why, and what to change."""


class CannotConnectError(RunLogStoreError, peewee.OperationalError):
    """Cannot connect to the database. The message gives the masked URL and the reason.

    Args:
        is_transient: Whether a later attempt may succeed.
    """

    def __init__(self, message: str, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class MissingTableError(RunLogStoreError, peewee.OperationalError):
    """The table, or its SQLite file, does not exist. The message says how to create it."""


class WrongTableError(RunLogStoreError, peewee.ProgrammingError):
    """`db_log` is a view or another program's table. The message says so, or names the columns that it lacks."""


class MissingSchemaError(RunLogStoreError, peewee.ProgrammingError):
    """The schema for the table does not exist. The message contains the CREATE SCHEMA to run."""


class PrivilegeError(RunLogStoreError, peewee.OperationalError):
    """The role lacks a privilege. The message names it, and contains the GRANT to run."""


class CorruptFileError(RunLogStoreError, peewee.DatabaseError):
    """The SQLite file is damaged, or is not an SQLite file. The message says how to recover its rows."""


class NetworkFileError(RunLogStoreError, peewee.OperationalError):
    """A network file system failed to lock or write the SQLite file. The message says where to move the file."""


class DuplicateRowsError(RunLogStoreError, peewee.IntegrityError):
    """The unique index cannot be created, because other software wrote rows twice. The message says which rows."""


class ValueTooLargeError(RunLogStoreError, peewee.DataError):
    """A value is larger than the server or the column accepts. The message says which limit to raise."""


class InvalidValueError(RunLogStoreError, TypeError, ValueError):
    """A value, a run id or a name cannot be stored. The message names it."""


class UnreadableRowError(RunLogStoreError, ValueError):
    """A row does not hold what magnus writes. The message says what is wrong, without quoting the row's value."""


class RunNotFoundError(RunLogStoreError, exceptions.RunLogNotFoundError):
    """No run has this id, or several ids begin with it. The message names the nearest ids.

    Args:
        nearest: The ids that the message names.
        is_ambiguous: Whether several ids begin with the id that was given.
    """

    def __init__(self, message: str, nearest: Sequence[str] = (), is_ambiguous: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.nearest = tuple(nearest)
        self.is_ambiguous = is_ambiguous
        self.args = (message,)


class RunExistsError(RunLogStoreError, exceptions.RunLogExistsError):
    """A run with this id exists already. The message says how to choose another id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.message = (
            f"A run with the id '{run_id}' exists already. magnus' generated ids repeat from day to day. "
            f"Choose an id with --run-id, for example with the date: --run-id {run_id}-{datetime.now():%Y-%m-%d-%H%M%S}"
        )
        self.args = (self.message,)


class RunIsReusedError(RunLogStoreError, ValueError):
    """A run cannot be deleted, because re-runs take results from it. The message names them."""


class ConditionError(RunLogStoreError, ValueError):
    """A condition on runs is not valid. The message says what to write."""


class UnknownNameError(ConditionError):
    """No run has a parameter or metric with this name. The message names the nearest."""


class MissingLibraryError(RunLogStoreError, ImportError):
    """An optional library is not installed. The message says how to install it."""


class NotAReportError(RunLogStoreError, FileExistsError):
    """The folder for a report contains other files. The message names one."""

"""A run log store for magnus that keeps run logs in a database, on peewee."""

from magnus_peewee_store.configuration import open_store
from magnus_peewee_store.db import create_tables
from magnus_peewee_store.exceptions import (
    CannotConnectError,
    ConditionError,
    ConfigurationError,
    ConnectionStringError,
    CorruptFileError,
    DuplicateRowsError,
    InvalidValueError,
    MissingLibraryError,
    MissingSchemaError,
    MissingTableError,
    NetworkFileError,
    NotAReportError,
    ParallelExecutionError,
    PrivilegeError,
    RunExistsError,
    RunIsReusedError,
    RunLogStoreError,
    RunNotFoundError,
    UnknownNameError,
    UnreadableRowError,
    ValueTooLargeError,
    WrongTableError,
)
from magnus_peewee_store.store import DBStore

__all__ = [
    "CannotConnectError",
    "ConditionError",
    "ConfigurationError",
    "ConnectionStringError",
    "CorruptFileError",
    "DBStore",
    "DuplicateRowsError",
    "InvalidValueError",
    "MissingLibraryError",
    "MissingSchemaError",
    "MissingTableError",
    "NetworkFileError",
    "NotAReportError",
    "ParallelExecutionError",
    "PrivilegeError",
    "RunExistsError",
    "RunIsReusedError",
    "RunLogStoreError",
    "RunNotFoundError",
    "UnknownNameError",
    "UnreadableRowError",
    "ValueTooLargeError",
    "WrongTableError",
    "__version__",
    "create_tables",
    "open_store",
]
__version__ = "0.1.0"

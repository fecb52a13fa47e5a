"""A run log store for magnus that keeps run logs in a database, on peewee."""

from magnus_peewee_store.configuration import open_store
from magnus_peewee_store.db import create_tables
from magnus_peewee_store.exceptions import (
    CannotConnectError,
    ConditionError,
    ConfigurationError,
    CorruptFileError,
    InvalidValueError,
    MissingLibraryError,
    MissingTableError,
    PrivilegeError,
    RunIsReusedError,
    RunLogStoreError,
    UnreadableRowError,
    WrongTableError,
)
from magnus_peewee_store.store import DBStore, RunExistsError, RunNotFoundError

__all__ = [
    "CannotConnectError",
    "ConditionError",
    "ConfigurationError",
    "CorruptFileError",
    "DBStore",
    "InvalidValueError",
    "MissingLibraryError",
    "MissingTableError",
    "PrivilegeError",
    "RunExistsError",
    "RunIsReusedError",
    "RunLogStoreError",
    "RunNotFoundError",
    "UnreadableRowError",
    "WrongTableError",
    "__version__",
    "create_tables",
    "open_store",
]
__version__ = "0.1.0"

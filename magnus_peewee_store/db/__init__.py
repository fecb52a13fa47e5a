"""The database layer: the table `db_log` and all SQL. It knows rows, but not run logs."""

from typing import List

from magnus_peewee_store.db.base import Backend
from magnus_peewee_store.db.legacy import LegacyTable
from magnus_peewee_store.db.schema import DBLog, schema_of
from magnus_peewee_store.db.url import make_database
from magnus_peewee_store.db.whole_runs import RunTable

__all__ = ["DBLog", "create_tables"]


def create_tables(connection_string: str) -> List[str]:
    """Create the table `db_log` in a database, or complete one that other software created. Running it again is safe.

    Args:
        connection_string: The connection string of the database, with its secrets filled in. Take one with a password
            from an environment variable: a command line is visible to others.

    Returns:
        A description of each part that was created.

    Raises:
        ConfigurationError: If the connection string is not valid.
        WrongTableError: If the table has rows that the unique index forbids. Nothing is changed.
        PrivilegeError: If something is missing, and the role may not create it.
        MissingTableError: If there is no schema for the table.
        WrongTableError: If `db_log` is a view, or a table of other software. Nothing is changed.
        peewee.DatabaseError: If the database cannot be reached.

    Example:
        >>> from magnus_peewee_store import db
        >>> db.create_tables("sqlite:///:memory:")
        ['the table db_log']
    """
    database = make_database(connection_string)
    try:
        return database.retry(schema_of(database).create)
    finally:
        database.close()


def open_table(database: Backend) -> RunTable:
    """Connect to a database and open its table. Create the table if it is missing."""
    schema = schema_of(database)
    database.retry(schema.create_if_missing)
    layout = database.retry(schema.inspect)
    return (RunTable if layout.has_unique_index else LegacyTable)(schema, layout)

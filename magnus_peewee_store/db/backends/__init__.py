"""One module per backend. Each has a class that is mixed with a database class of peewee."""

from typing import Type

import peewee

from magnus_peewee_store.db.backends.base import Backend
from magnus_peewee_store.db.backends.mysql import MySQLBackend
from magnus_peewee_store.db.backends.postgresql import PostgresqlBackend
from magnus_peewee_store.db.backends.sqlite import SqliteBackend

__all__ = ["Backend", "backend_class"]

BACKENDS = (SqliteBackend, PostgresqlBackend, MySQLBackend)


def backend_class(database_class: Type[peewee.Database]) -> Type[Backend]:
    """Return a class that mixes a database class of peewee with the matching backend class."""
    backend = next(each for each in BACKENDS if issubclass(database_class, each.peewee_class))
    return type(database_class.__name__, (backend, database_class), {})

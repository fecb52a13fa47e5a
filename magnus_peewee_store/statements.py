"""Queries that peewee writes as SQL once, and that run with new values each time.

Writing the SQL of a query takes peewee longer than a database to answer it, and its text depends on the database and
its table alone.
"""

import functools
from typing import Any, Callable, Dict

import peewee


class _Given(str):
    """The name of a value, which stands in its place among a query's parameters."""

    __slots__ = ()


def given(name: str) -> Any:
    """Stand in a query for a value that is known when it is run.

    Args:
        name: The name that the value is given by.

    Returns:
        The node of the query.
    """
    return peewee.Value(_Given(name), converter=False)


class Statement:
    """A query as SQL.

    Args:
        database: The database to run it on.
        query: The query, with `given` values in it.
    """

    def __init__(self, database: peewee.Database, query: Any) -> None:
        self._database = database
        self._sql, parameters = query.sql()
        # A value that the query has itself is named by its place, which is no name that can be given.
        self._names = [str(each) if isinstance(each, _Given) else f"#{n}" for n, each in enumerate(parameters)]
        self._own = {name: each for name, each in zip(self._names, parameters) if not isinstance(each, _Given)}

    def run(self, **values: Any) -> Any:
        """Run it.

        Args:
            values: Each value that the query left to be given.

        Returns:
            The driver's cursor.

        Raises:
            KeyError: If a value is missing.
        """
        values = {**self._own, **values}
        return self._database.execute_sql(self._sql, [values[name] for name in self._names])


def written_once(build: Callable[..., Any]) -> Callable[..., Statement]:
    """Make of a method that builds a query one that gives it as a statement, kept in the object's `_statements`.

    Args:
        build: The method. What its query consists of depends on its arguments and on nothing that changes while
            `_statements` is kept.

    Returns:
        The method, which builds once for the same arguments.
    """

    @functools.wraps(build)
    def statement(self: Any, *shape: Any) -> Statement:
        statements: Dict[Any, Statement] = self._statements
        key = (build, *shape)
        if key not in statements:
            statements[key] = Statement(self.database, build(self, *shape))
        return statements[key]

    return statement

"""Queries that peewee compiles to SQL once, and that run with new values each time.

peewee takes longer to compile a query than the database takes to answer it. The SQL depends only on the database and
its table.
"""

import functools
from typing import Any, Callable, Dict

import peewee


class _Param(str):
    """The name of a value that is known when the query runs."""

    __slots__ = ()


def param(name: str) -> Any:
    """Return a query node that stands for a value known when the query runs."""
    return peewee.Value(_Param(name), converter=False)


class CompiledQuery:
    """A query as SQL text, with the names of its parameters.

    Args:
        database: The database to run it on.
        query: The query. Its variable values are `param` nodes.
    """

    def __init__(self, database: peewee.Database, query: Any) -> None:
        self._database = database
        self._sql, parameters = query.sql()
        # A constant of the query gets a name that no param can have.
        self._names = [str(each) if isinstance(each, _Param) else f"#{n}" for n, each in enumerate(parameters)]
        self._constants = {name: each for name, each in zip(self._names, parameters) if not isinstance(each, _Param)}

    def run(self, **values: Any) -> Any:
        """Run the query with a value for each of its params, and return the driver's cursor."""
        values = {**self._constants, **values}
        return self._database.execute_sql(self._sql, [values[name] for name in self._names])


def compiled(build: Callable[..., Any]) -> Callable[..., CompiledQuery]:
    """Decorate a method that builds a query: compile the query once for each combination of arguments.

    The compiled queries are kept in the object's `_queries`. A query may depend only on the arguments, and on
    attributes that never change.
    """

    @functools.wraps(build)
    def compile_once(self: Any, *arguments: Any) -> CompiledQuery:
        queries: Dict[Any, CompiledQuery] = self._queries
        key = (build, *arguments)
        if key not in queries:
            queries[key] = CompiledQuery(self.database, build(self, *arguments))
        return queries[key]

    return compile_once

"""The SQL that reads and writes rows of `db_log`. peewee compiles each query once.

peewee takes longer to compile a query than the database takes to answer it. The SQL depends only on the database and
its table.
"""

import functools
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

import peewee
from peewee import fn

from magnus_peewee_store.db.schema import UNIQUE, Layout


class _Param(str):
    """The name of a value that is known when the query runs."""

    __slots__ = ()


def param(name: str) -> Any:
    """Return a query node that stands for a value known when the query runs."""
    return peewee.Value(_Param(name), converter=False)


class CompiledQuery:
    """A query as SQL text, with the names of its parameters, which are `param` nodes of the query."""

    def __init__(self, database: peewee.Database, query: Any) -> None:
        self._database = database
        self._sql, parameters = query.sql()
        # A constant of the query gets a name that no param can have.
        self._names = [str(each) if isinstance(each, _Param) else f"#{n}" for n, each in enumerate(parameters)]
        self._constants = {name: each for name, each in zip(self._names, parameters) if not isinstance(each, _Param)}

    def run(self, **values: Any) -> Any:
        """Run the query with a value for each of its params, and return the driver's cursor."""
        values.update(self._constants)
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


Types = Tuple[str, ...]  # alternatives of attribute_type
Paths = Tuple[Tuple[Union[str, int], ...], ...]  # one for each value in a JSON document: the keys that lead to it


class Queries:
    """The queries on one table, for one layout of it.

    In all methods, `types` are alternatives of attribute_type, and `name` is an attribute_key. None means any.
    """

    def __init__(self, model: Any, layout: Layout) -> None:
        self.database = model._meta.database
        self.layout = layout
        self._log = model
        self._queries: Dict[Any, CompiledQuery] = {}
        self._next_pk = {} if layout.next_pk is None else {"pk": layout.next_pk}

    def comparable(self, column: Any) -> Any:
        """Return the SQL expression that compares a column byte for byte. Only legacy tables need a conversion."""
        return column if self.layout.compares_bytes else self.database.binary(column)

    @property
    def sorted_created_at(self) -> Any:
        """The column created_at in the ORDER BY of a query for rows of some types.

        COALESCE stops SQLite from choosing the created_at index, and reading the whole run, just to avoid a small sort.
        """
        return fn.COALESCE(self._log.created_at, self._log.created_at)

    def rows_of(self, run_id: Any, types: Optional[Types] = None, name: Any = None) -> Any:
        """Return a peewee query for rows of a run, or of all runs if `run_id` is None."""
        log = self._log
        rows = log.select()
        if run_id is not None:
            rows = rows.where(self.comparable(log.run_id) == run_id)
        if types is not None:
            rows = rows.where(log.attribute_type.in_(types))
        if name is not None:
            rows = rows.where(self.comparable(log.attribute_key) == name)
        return rows

    @compiled
    def select(self, types: Optional[Types], has_name: bool, is_locking: bool, except_types: Types) -> Any:
        """Read rows of a run, oldest first. Params: run_id, name."""
        log = self._log
        rows = self.rows_of(param("run_id"), types, param("name") if has_name else None)
        if except_types:
            rows = rows.where(log.attribute_type.not_in(except_types))
        created_at = log.created_at if types is None else self.sorted_created_at
        rows = rows.select(log.attribute_type, log.attribute_key, log.attribute_value).order_by(created_at, log.pk)
        return rows.for_update() if is_locking else rows

    @compiled
    def select_one(self, types: Optional[Types], has_name: bool) -> Any:
        """Find any one row of a run. Params: run_id, name."""
        return self.rows_of(param("run_id"), types, param("name") if has_name else None).select(self._log.pk).limit(1)

    @compiled
    def select_fields(self, run_count: int, types: Types, field_types: Types, paths: Paths) -> Any:
        """Read rows of several runs; see `RunTable.read_fields`. Params: run_id_0, run_id_1 and so on."""
        log = self._log
        run_id, value = self.comparable(log.run_id), log.attribute_value
        if field_types:
            has_fields = log.attribute_type.in_(field_types)
            value = peewee.Case(None, [(has_fields, self.database.json_fields(value, paths))], value)
        run_ids = [param(f"run_id_{number}") for number in range(run_count)]
        rows = log.select(log.run_id, log.attribute_type, log.attribute_key, value, log.created_at)
        rows = rows.where(run_id.in_(run_ids), log.attribute_type.in_(types + field_types))
        return rows.order_by(run_id, self.sorted_created_at, log.pk)

    @compiled
    def insert(self) -> Any:
        """Insert a row. Params: run_id, attribute_type, attribute_key, attribute_value, now."""
        return self._insert_after_newest()

    @compiled
    def insert_or_update(self, required: Sequence[Types], has_many: bool) -> Any:
        """Upsert one row, or many rows from a JSON text, if the run has all required rows.

        Params: those of `insert` for one row; run_id, rows and now for many; also required_0, required_1 and so on, the
        names of the required rows.
        """
        insert = self._insert_after_newest(required, has_many)
        unique = [getattr(self._log, name) for name in UNIQUE] if self.database.has_conflict_target else None
        return insert.on_conflict(conflict_target=unique, preserve=[self._log.attribute_value])

    @compiled
    def lock(self) -> Any:
        """Lock rows in the same order as `insert_or_update` with many rows, and return their types and keys.

        Params: run_id; rows, which is a JSON text of types and keys.
        """
        columns = (self._log.attribute_type, self._log.attribute_key)
        table, _, values = self.database.json_rows(param("rows"))
        named = peewee.Tuple(*columns).in_(peewee.Select([table], values[:2]))
        return self.rows_of(param("run_id")).select(*columns).where(named).order_by(*columns).for_update()

    @compiled
    def insert_stored(self) -> Any:
        """Insert a row with its created_at. Params: the columns."""
        names = ("run_id", "attribute_type", "attribute_key", "attribute_value", "created_at")
        return self._log.insert(**{name: param(name) for name in names}, **self._next_pk).returning()

    def _insert_after_newest(self, required: Sequence[Types] = (), has_many: bool = False) -> Any:
        """Return an INSERT whose rows are newer than all rows of the run. Without the required rows it inserts none."""
        log = self._log
        # This is a scalar subquery. As a table in FROM, it would make SQLite read the whole run.
        newest = log.select(fn.MAX(log.created_at)).where(self.comparable(log.run_id) == param("run_id"))
        if has_many:
            table, ordinal, values = self.database.json_rows(param("rows"))
        else:
            table, ordinal = None, 0
            values = [param("attribute_type"), param("attribute_key"), param("attribute_value")]
        created_at = self.database.next_created_at(param("now"), newest, ordinal)
        columns = [param("run_id"), *values, created_at, *self._next_pk.values()]
        # SQLite needs a WHERE, or it parses ON CONFLICT as a join's ON (https://www.sqlite.org/lang_upsert.html, 2.2).
        source = peewee.Select([table] if table else [], columns).where(peewee.SQL("1 = 1"))
        if has_many:
            source = source.order_by(*values[:2])  # The same order in all processes avoids deadlocks.
        for number, types in enumerate(required):
            source = source.where(fn.EXISTS(self.rows_of(param("run_id"), types, param(f"required_{number}"))))
        fields = [log.run_id, log.attribute_type, log.attribute_key, log.attribute_value, log.created_at]
        return log.insert_from(source, [*fields, *(getattr(log, name) for name in self._next_pk)]).returning()

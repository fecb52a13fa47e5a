"""Define, inspect, create and complete the table `db_log`."""

import contextlib
import logging
from datetime import datetime
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

import peewee
from peewee import fn

from magnus_peewee_store.db.base import KEY_COLUMNS, PARTIAL, TABLE, Backend
from magnus_peewee_store.exceptions import MissingTableError, PrivilegeError, WrongTableError
from magnus_peewee_store.times import ISO_LENGTHS, utcnow

logger = logging.getLogger("magnus.db")

HALF_OF_32_BITS = 2**30

UNIQUE = KEY_COLUMNS
INDEXES = (
    (UNIQUE, True),
    (("run_id", "created_at"), False),  # finds the newest row of a run, at every insert
    (("attribute_type", "created_at", "run_id"), False),  # finds the newest runs
)


class RunIdField(peewee.TextField):
    """The type of run_id; see `Backend.field_types`."""

    field_type = "RUN_ID"


class AttributeKeyField(peewee.TextField):
    """The type of attribute_key; see `Backend.field_types`."""

    field_type = "ATTRIBUTE_KEY"


class AttributeTypeField(peewee.TextField):
    """The type of attribute_type; see `Backend.field_types`."""

    field_type = "ATTRIBUTE_TYPE"


class AttributeValueField(peewee.TextField):
    """The type of attribute_value; see `Backend.field_types`."""

    field_type = "ATTRIBUTE_VALUE"


class CreatedAtField(peewee.DateTimeField):
    """The type of created_at; see `Backend.field_types`."""

    field_type = "CREATED_AT"

    def python_value(self, value: Any) -> Any:
        """Return the time in UTC. SQLite stores it as text. peewee's own parser would take ten times as long."""
        if isinstance(value, str) and len(value) in ISO_LENGTHS:
            with contextlib.suppress(ValueError):
                return datetime.fromisoformat(value)
        return super().python_value(value)


class DBLog(peewee.Model):
    """A row of `db_log`: one fragment of a run log. Not bound to a database; `Schema` binds a subclass."""

    pk = peewee.BigAutoField()  # Each upsert uses up a number: 32 bits would be used up within weeks.
    run_id = RunIdField()
    attribute_key = AttributeKeyField()
    attribute_type = AttributeTypeField()
    attribute_value = AttributeValueField()
    created_at = CreatedAtField(default=utcnow)

    class Meta:
        table_name = TABLE
        indexes = INDEXES


class Layout(NamedTuple):
    """The properties of a table that decide how it is read and written."""

    has_unique_index: bool
    """Whether the database rejects a second row for the same key."""
    compares_bytes: bool
    """Whether the key columns compare byte for byte."""
    next_pk: Optional[peewee.Node]
    """The SQL expression for a new row's pk, if the column has no default."""
    max_value_bytes: Optional[int]
    """The maximum size of attribute_value in bytes; None if there is no limit that matters."""


class Schema:
    """The table `db_log` in one database: inspect, create and complete it.

    Args:
        database: The database.
    """

    def __init__(self, database: Backend) -> None:
        self.database = database
        self.model = _bind(database)

    def exists(self) -> bool:
        """Return True if the table exists.

        Raises:
            MissingTableError: If there is no schema for it.
            PrivilegeError: If the role may not use the schema.
            WrongTableError: If it is a view.
        """
        if self.database.table_exists(TABLE, self.database.schema):
            return True
        self.database.check_schema()
        if any(view.name == TABLE for view in self.database.get_views(self.database.schema)):
            raise WrongTableError(
                f"{TABLE} in {self.database.masked_url} is a view, which the store cannot write to. Use another "
                "database or schema, or rename the view."
            )
        return False

    def inspect(self) -> Layout:
        """Return the layout of the table, which must exist.

        Raises:
            WrongTableError: If it lacks columns.
        """
        columns = self._columns()
        pk = columns["pk"]
        compares_bytes = self.database.compares_bytes()
        return Layout(
            # MySQL's upsert updates a row that conflicts in any unique index, even in one that confuses names.
            has_unique_index=compares_bytes
            and (UNIQUE, True) in self._usable_indexes()
            and (self.database.has_conflict_target or not self._confusing_indexes()),
            compares_bytes=compares_bytes,
            next_pk=None if pk.identity or pk.default else self.database.next_pk(),
            max_value_bytes=self.database.max_value_bytes(columns["attribute_value"]),
        )

    def create_if_missing(self) -> None:
        """Create the table if it does not exist.

        Raises:
            MissingTableError: If it cannot be created.
            PrivilegeError: If the role cannot see whether it exists.
        """
        if self.exists():
            return
        url = self.database.masked_url
        try:
            self.create()
        except peewee.DatabaseError as error:
            if self.database.is_transient(error):
                raise
            self._check_readable()
            raise MissingTableError(
                f"The table {TABLE} does not exist in {url} and could not be created: {error}. "
                "Put the connection string of a role that may create tables into the variable DSN, and run: "
                "python -c 'import os; from magnus_peewee_store import db; db.create_tables(os.environ[\"DSN\"])'"
            ) from error
        logger.info("Created the table %s in %s", TABLE, url)

    def create(self) -> List[str]:
        """Create the table, or complete it.

        Returns:
            A description of each part that was created.

        Raises:
            WrongTableError: If rows violate the unique index. Nothing is changed.
        """
        # This comes before the transaction, because a role that may only read cannot open it.
        if not self.missing():
            return []
        # One transaction, so that nobody sees the table without the index that an upsert needs. The table's name stands
        # for a run id: the lock lets only one process at a time change the table.
        with self.database.run_lock(TABLE):
            missing = self.missing()
            is_new = not self.exists()
            if is_new:
                self.model._meta.table_settings = self.database.table_settings
                # Missing indexes are created below, for a new table and for a legacy table alike.
                self.model._schema.create_table()
                self.database.after_create()
            if (UNIQUE, True) not in self._usable_indexes():
                self._check_duplicates()
            for name in self._confusing_indexes():
                self.database.drop_index(name)
            if not is_new and not self._has_complete_columns():
                self.database.complete_columns(self.model)
            for columns, is_unique in self._missing_indexes():
                fields = [getattr(self.model, name) for name in columns]
                index = peewee.ModelIndex(self.model, fields, unique=is_unique)
                self.database.execute(self.model._schema._create_index(index, safe=False))
            return missing

    def missing(self) -> List[str]:
        """Return a description of each part that `create` would create.

        Raises:
            WrongTableError: If `db_log` is a view, or lacks columns.
        """
        if not self.exists():
            return [f"the table {TABLE}"]
        columns = [] if self._has_complete_columns() else [f"the column types of {TABLE}"]
        confusing = self._confusing_indexes()
        indexes = [
            f"the {'unique ' if is_unique else ''}index over {', '.join(columns)}"
            for columns, is_unique in self._missing_indexes()
        ]
        if not indexes and confusing:
            indexes = ["support for all names"]
        if confusing:
            replaced = ", ".join(f"the index '{name}', which {why}" for name, why in confusing.items())
            indexes[0] += f" instead of {replaced}"
        return columns + indexes

    def widen_pk_sql(self) -> str:
        """Return the SQL that widens pk; empty unless pk has 32 bits and half of its numbers are used."""
        if not self.database.is_narrow(self._columns()["pk"]):
            return ""
        newest = self.model.select(fn.MAX(self.model.pk)).scalar() or 0
        return self.database.widen_pk_sql() if newest > HALF_OF_32_BITS else ""

    def duplicates(self) -> Dict[str, int]:
        """Return for each run how many rows violate the unique index. Other software wrote them twice."""
        model = self.model
        unique = [getattr(model, name) for name in UNIQUE]
        if not self.database.compares_bytes():
            unique = list(map(self.database.binary, unique))
        groups = model.select(fn.MIN(model.run_id), fn.COUNT(model.pk)).group_by(*unique)
        surplus: Dict[str, int] = {}
        for run_id, count in groups.having(fn.COUNT(model.pk) > 1).tuples():
            surplus[run_id] = surplus.get(run_id, 0) + count - 1
        return surplus

    def _check_duplicates(self) -> None:
        surplus = self.duplicates()
        if surplus:
            runs = ", ".join(f"{run_id} ({count})" for run_id, count in sorted(surplus.items())[:10])
            raise WrongTableError(
                f"The table {TABLE} in {self.database.masked_url} has {sum(surplus.values())} duplicate rows in "
                f"{len(surplus)} runs: {runs}{', ...' if len(surplus) > 10 else ''}. Other software wrote them twice. "
                "Of rows with the same run_id, attribute_type and attribute_key, keep the newest by created_at and "
                "delete the others. Then run create_tables again. Nothing was changed."
            )

    def _check_readable(self) -> None:
        """Raise PrivilegeError if the role may not read the table. Such a role may not even see the table's columns."""
        try:
            self.model.select(peewee.SQL("1")).limit(0).execute()
        except peewee.DatabaseError as error:
            explanation = self.database.explain(error)
            if isinstance(explanation, PrivilegeError):
                raise explanation from error

    def _columns(self) -> Dict[str, Any]:
        columns = {column.name: column for column in self.database.get_columns(TABLE, self.database.schema)}
        lacking = [name for name in self.model._meta.columns if name not in columns]
        if not columns:
            self._check_readable()
        if lacking:
            raise WrongTableError(
                f"The table {TABLE} in {self.database.masked_url} is not a table of run logs: it lacks the column"
                f"{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}. Nothing was changed. Use another database or "
                "schema, or rename the table."
            )
        return columns

    def _has_complete_columns(self) -> bool:
        return self.database.has_complete_columns(self._columns()) and self.database.compares_bytes()

    def _usable_indexes(self) -> Set[Tuple[Tuple[str, ...], bool]]:
        """Return the columns of each index, and whether it is unique. Unusable unique indexes are left out."""
        unusable = self.database.unusable_indexes()
        return {
            (tuple(index.columns), index.unique)
            for index in self._all_indexes()
            if not (index.unique and index.name in unusable)
        }

    def _confusing_indexes(self) -> Dict[str, str]:
        """Return the unique indexes that treat different rows as duplicates: index name to reason."""
        unusable = self.database.unusable_indexes()
        confusing = {}
        for index in self._all_indexes():
            if not (index.unique and set(index.columns) <= set(UNIQUE)):
                continue
            if set(index.columns) < set(UNIQUE):
                confusing[index.name] = f"covers only {', '.join(index.columns)}"
            elif unusable.get(index.name, PARTIAL) != PARTIAL:
                confusing[index.name] = unusable[index.name]
        return confusing

    def _all_indexes(self) -> Any:
        return self.database.get_indexes(TABLE, self.database.schema)

    def _missing_indexes(self) -> List[Tuple[Tuple[str, ...], bool]]:
        present = self._usable_indexes()
        return [index for index in INDEXES if index not in present]


def _bind(database: Backend) -> Any:
    """Return a model of the table, bound to a database."""
    meta: Dict[str, Any] = {"database": database, "table_name": TABLE, "schema": database.schema}
    if not database.has_transactional_ddl:
        # Without transactional DDL, one statement must create the table and its indexes together.
        meta["indexes"] = ()
        meta["constraints"] = [
            peewee.SQL(f"{'UNIQUE ' if is_unique else ''}INDEX ({', '.join(columns)})")
            for columns, is_unique in INDEXES
        ]
    return type("DBLog", (DBLog,), {"Meta": type("Meta", (), meta)})

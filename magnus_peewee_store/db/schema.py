"""The table `db_log`: its definition, how it stands in a database, and creating or completing it."""

import contextlib
import logging
from datetime import datetime
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

import peewee
from peewee import fn

from magnus_peewee_store.db.backends import Backend
from magnus_peewee_store.exceptions import DuplicateRowsError, MissingTableError
from magnus_peewee_store.times import ISO_LENGTHS, utcnow

logger = logging.getLogger("magnus.db")

TABLE = "db_log"
UNIQUE = ("run_id", "attribute_type", "attribute_key")
INDEXES = (
    (UNIQUE, True),
    (("run_id", "created_at"), False),  # finds the newest row of a run, at every insert
    (("attribute_type", "created_at", "run_id"), False),  # finds the newest runs
)


class RunIdField(peewee.TextField):
    """The column run_id; a backend's `field_types` may define its type."""

    field_type = "RUN_ID"


class AttributeKeyField(peewee.TextField):
    """The column attribute_key; a backend's `field_types` may define its type."""

    field_type = "ATTRIBUTE_KEY"


class AttributeTypeField(peewee.TextField):
    """The column attribute_type; a backend's `field_types` may define its type."""

    field_type = "ATTRIBUTE_TYPE"


class AttributeValueField(peewee.TextField):
    """The column attribute_value; a backend's `field_types` may define its type."""

    field_type = "ATTRIBUTE_VALUE"


class CreatedAtField(peewee.DateTimeField):
    """The column created_at; a backend's `field_types` may define its type."""

    field_type = "CREATED_AT"

    def python_value(self, value: Any) -> Any:
        """Parse a text of SQLite; peewee's own way takes ten times as long."""
        if isinstance(value, str) and len(value) in ISO_LENGTHS:
            with contextlib.suppress(ValueError):
                return datetime.fromisoformat(value)
        return super().python_value(value)


class DBLog(peewee.Model):
    """A row of `db_log`: one fragment of a run log. Bound to no database; each store binds a model of its own."""

    pk = peewee.AutoField()
    run_id = RunIdField()
    attribute_key = AttributeKeyField()
    attribute_type = AttributeTypeField()
    attribute_value = AttributeValueField()
    created_at = CreatedAtField(default=utcnow)

    class Meta:
        table_name = TABLE
        indexes = INDEXES


class Layout(NamedTuple):
    """How the table stands in a database, as far as reading and writing depend on it."""

    has_unique_index: bool
    """Whether the database itself decides who writes a row first."""
    next_pk: Optional[peewee.Node]
    """The SQL expression for a new row's pk, if the column has no default."""
    max_value_bytes: Optional[int]
    """How many bytes attribute_value holds; None if there is no limit that matters."""


class Schema:
    """The table `db_log` in one database: inspect, create and complete it.

    Args:
        database: The database.
    """

    def __init__(self, database: Backend) -> None:
        self.database = database
        self.model = _bind(database)

    def inspect(self) -> Layout:
        """Return how the table stands. The table must exist."""
        columns = self._columns()
        pk = columns["pk"]
        return Layout(
            has_unique_index=(UNIQUE, True) in self._indexes(),
            next_pk=None if pk.identity or pk.default else self.database.next_pk(),
            max_value_bytes=self.database.max_value_bytes(columns["attribute_value"]),
        )

    def create_if_missing(self) -> None:
        """Create the table if it does not exist.

        Raises:
            MissingTableError: If it cannot be created.
        """
        if self.model.table_exists():
            return
        url = self.database.masked_url
        try:
            self.create()
        except peewee.DatabaseError as error:
            if self.database.is_transient(error):
                raise
            raise MissingTableError(
                f"The table {TABLE} does not exist in {url} and could not be created: {error}. "
                "Run, with a role that may create tables: python -c "
                "'from magnus_peewee_store import db; db.create_tables(\"<connection string>\")'"
            ) from error
        logger.info("Created the table %s in %s", TABLE, url)

    def create(self) -> List[str]:
        """Create the table, or complete it.

        Returns:
            What was missing and now exists, one text each.

        Raises:
            DuplicateRowsError: If rows violate the unique index. Nothing is changed.
        """
        # One transaction, so that nobody sees the table without the index that an upsert needs.
        with self.database.run_lock(TABLE):
            missing = self.missing()
            is_new = not self.model.table_exists()
            if is_new:
                self.model._meta.table_settings = self.database.table_settings
                # The indexes come later: duplicates in a table made by others may forbid them.
                self.model._schema.create_table()
                self.database.after_create(TABLE)
            if (UNIQUE, True) not in self._indexes():
                self._check_duplicates()
            if not is_new and not self.database.has_complete_columns(self._columns()):
                self.database.complete_columns(TABLE)
            for columns, is_unique in self._missing_indexes():
                fields = [getattr(self.model, name) for name in columns]
                index = peewee.ModelIndex(self.model, fields, unique=is_unique)
                self.database.execute(self.model._schema._create_index(index, safe=False))
            return missing

    def missing(self) -> List[str]:
        """Return what `create` would create, one text each."""
        if not self.model.table_exists():
            return [f"the table {TABLE}"]
        has_columns = self.database.has_complete_columns(self._columns())
        columns = [] if has_columns else [f"the column types of {TABLE}"]
        return columns + [
            f"the {'unique ' if is_unique else ''}index over {', '.join(columns)}"
            for columns, is_unique in self._missing_indexes()
        ]

    def duplicates(self) -> Dict[str, int]:
        """Return by run how many rows violate the unique index, because other software wrote them twice."""
        model = self.model
        unique = [self.database.binary(getattr(model, name)) for name in UNIQUE]
        groups = model.select(fn.MIN(model.run_id), fn.COUNT(model.pk)).group_by(*unique)
        surplus: Dict[str, int] = {}
        for run_id, count in groups.having(fn.COUNT(model.pk) > 1).tuples():
            surplus[run_id] = surplus.get(run_id, 0) + count - 1
        return surplus

    def _check_duplicates(self) -> None:
        surplus = self.duplicates()
        if surplus:
            runs = ", ".join(f"{run_id} ({count})" for run_id, count in sorted(surplus.items())[:10])
            raise DuplicateRowsError(
                f"The table {TABLE} in {self.database.masked_url} has {sum(surplus.values())} duplicate rows in "
                f"{len(surplus)} runs: {runs}{', ...' if len(surplus) > 10 else ''}. Other software wrote them twice. "
                "Of rows with the same run_id, attribute_type and attribute_key, keep the newest by created_at and "
                "delete the others. Then run create_tables again. Nothing was changed."
            )

    def _columns(self) -> Dict[str, Any]:
        return {column.name: column for column in self.database.get_columns(TABLE)}

    def _indexes(self) -> Set[Tuple[Tuple[str, ...], bool]]:
        return {(tuple(index.columns), index.unique) for index in self.database.get_indexes(TABLE)}

    def _missing_indexes(self) -> List[Tuple[Tuple[str, ...], bool]]:
        present = self._indexes()
        return [index for index in INDEXES if index not in present]


def _bind(database: Backend) -> Any:
    """Return a model of the table, bound to a database."""
    meta: Dict[str, Any] = {"database": database, "table_name": TABLE}
    if not database.has_transactional_ddl:
        # The table and its indexes appear at once only if they are created by one statement.
        meta["indexes"] = ()
        meta["constraints"] = [
            peewee.SQL(f"{'UNIQUE ' if is_unique else ''}INDEX ({', '.join(columns)})")
            for columns, is_unique in INDEXES
        ]
    return type("DBLog", (DBLog,), {"Meta": type("Meta", (), meta)})

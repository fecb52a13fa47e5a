"""Define, inspect, create and complete the table `db_log`."""

import contextlib
import logging
import re
from datetime import datetime
from typing import Any, ClassVar, Dict, List, NamedTuple, Optional, Set, Tuple, Type

import peewee
from peewee import SQL, fn

from magnus_peewee_store.db.base import TABLE, Backend
from magnus_peewee_store.db.mysql import COLUMN_TYPES, MySQLBackend
from magnus_peewee_store.db.postgresql import PostgresqlBackend
from magnus_peewee_store.exceptions import MissingTableError, PrivilegeError, WrongTableError
from magnus_peewee_store.times import ISO_LENGTHS, utcnow

logger = logging.getLogger("magnus.db")

HALF_OF_32_BITS = 2**30

UNIQUE = ("run_id", "attribute_type", "attribute_key")
INDEXES = (
    (UNIQUE, True),
    (("run_id", "created_at"), False),  # finds the newest row of a run, at every insert
    (("attribute_type", "created_at", "run_id"), False),  # finds the newest runs
)

# Why an upsert cannot rely on a unique index.
PREFIX = "compares only the beginnings of names"
INEXACT = "does not compare names byte for byte"
DEFERRABLE = "belongs to a deferrable constraint"
PARTIAL = "does not cover all rows"


class TypedTextField(peewee.TextField):
    """A column of text, whose type each database names in `Backend.field_types`."""

    def __init__(self, field_type: str) -> None:
        super().__init__()
        self.field_type = field_type  # type: ignore[misc,unused-ignore]


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
    run_id = TypedTextField("RUN_ID")
    attribute_key = TypedTextField("ATTRIBUTE_KEY")
    attribute_type = TypedTextField("ATTRIBUTE_TYPE")
    attribute_value = TypedTextField("ATTRIBUTE_VALUE")
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
    """The table `db_log` in one database: inspect, create and complete it. Each database has a subclass."""

    database: Backend
    table_options: ClassVar[Dict[str, Any]] = {}  # peewee's options of the model

    def __init__(self, database: Backend) -> None:
        self.database = database
        meta = {"database": database, "table_name": TABLE, "schema": database.schema, **self.table_options}
        self.model: Any = type("DBLog", (DBLog,), {"Meta": type("Meta", (), meta)})
        self._table = database.qualified(TABLE)

    def exists(self) -> bool:
        """Return True if the table exists. Raise an error if there is a view instead, or no schema for it."""
        if self.database.table_exists(TABLE, self.database.schema):
            return True
        self._check_schema()
        if any(view.name == TABLE for view in self.database.get_views(self.database.schema)):
            raise WrongTableError(
                f"{TABLE} in {self.database.masked_url} is a view, which the store cannot write to. Use another "
                "database or schema, or rename the view."
            )
        return False

    def inspect(self) -> Layout:
        """Return the layout of the table, which must exist."""
        columns = self._columns()
        pk = columns["pk"]
        compares_bytes = self._compares_bytes()
        return Layout(
            # MySQL's upsert updates a row that conflicts in any unique index, even in one that confuses names.
            has_unique_index=compares_bytes
            and (UNIQUE, True) in self._usable_indexes()
            and (self.database.has_conflict_target or not self._confusing_indexes()),
            compares_bytes=compares_bytes,
            next_pk=None if pk.identity or pk.default else self._next_pk(),
            max_value_bytes=self._max_value_bytes(columns["attribute_value"]),
        )

    def create_if_missing(self) -> None:
        """Create the table if it does not exist."""
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
        """Create the table, or complete it. Return a description of each part that was created."""
        # This comes before the transaction, because a role that may only read cannot open it.
        if not self.missing():
            return []
        # One transaction, so that nobody sees the table without the index that an upsert needs. The table's name stands
        # for a run id: the lock lets only one process at a time change the table.
        with self.database.run_lock(TABLE):
            missing = self.missing()
            is_new = not self.exists()
            if is_new:
                self.model._meta.table_settings = self._table_settings()
                # Missing indexes are created below, for a new table and for a legacy table alike.
                self.model._schema.create_table()
                self._after_create()
            if (UNIQUE, True) not in self._usable_indexes():
                self._check_duplicates()
            for name in self._confusing_indexes():
                self.drop_index(name)
            if not is_new and not self._has_complete_columns():
                self._complete_columns()
            for columns, is_unique in self._missing_indexes():
                fields = [getattr(self.model, name) for name in columns]
                index = peewee.ModelIndex(self.model, fields, unique=is_unique)
                self.database.execute(self.model._schema._create_index(index, safe=False))
            return missing

    def missing(self) -> List[str]:
        """Return a description of each part that `create` would create."""
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
        if self._columns()["pk"].data_type.lower() not in ("int", "integer"):
            return ""
        newest = self.model.select(fn.MAX(self.model.pk)).scalar() or 0
        return self._widening() if newest > HALF_OF_32_BITS else ""

    def duplicates(self) -> Dict[str, int]:
        """Return for each run how many rows violate the unique index. Other software wrote them twice."""
        model = self.model
        unique = [getattr(model, name) for name in UNIQUE]
        if not self._compares_bytes():
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
        return self._are_complete(self._columns()) and self._compares_bytes()

    def _usable_indexes(self) -> Set[Tuple[Tuple[str, ...], bool]]:
        """Return the columns of each index, and whether it is unique. Unusable unique indexes are left out."""
        unusable = self._unusable_indexes()
        return {
            (tuple(index.columns), index.unique)
            for index in self._all_indexes()
            if not (index.unique and index.name in unusable)
        }

    def _confusing_indexes(self) -> Dict[str, str]:
        """Return the unique indexes that treat different rows as duplicates: index name to reason."""
        unusable = self._unusable_indexes()
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

    def _query(self, sql: str, *values: Any) -> List[Any]:
        return list(self.database.execute_sql(sql, values).fetchall())

    # What differs between the databases:

    def size(self) -> int:
        """Return the size of the table with its indexes, in bytes."""
        raise NotImplementedError

    def drop_index(self, name: str) -> None:
        """Drop an index of the table."""
        self.database.execute_sql(f"DROP INDEX {self.database.quoted(name)}")

    def _check_schema(self) -> None:
        """Raise an error if there is no schema for the table, or if the role may not use it."""

    def _table_settings(self) -> Tuple[str, ...]:
        """Return options of CREATE TABLE."""
        return ()

    def _after_create(self) -> None:
        """Change a table that was just created."""

    def _next_pk(self) -> Any:
        """Return the SQL expression for the next pk, if pk has no default. It then comes from the sequence `id_seq`."""
        return fn.NEXTVAL(self.database.qualified("id_seq"))

    def _widening(self) -> str:
        """Return the SQL that changes pk to a BIGINT."""
        raise NotImplementedError

    def _max_value_bytes(self, column: Any) -> Optional[int]:
        """Return the maximum size of a text column in bytes; None if there is no limit that matters."""
        return None

    def _are_complete(self, columns: Dict[str, Any]) -> bool:
        """Return True if the columns are as `create_tables` creates them."""
        return bool(columns["pk"].identity)

    def _complete_columns(self) -> None:
        """Change the columns of a legacy table to what `create_tables` creates."""
        raise NotImplementedError

    def _compares_bytes(self) -> bool:
        """Return True if the key columns compare byte for byte: `a`, `A` and `a ` are three names."""
        raise NotImplementedError

    def _unusable_indexes(self) -> Dict[str, str]:
        """Return the indexes that do not tell exactly which rows are duplicates: index name to reason."""
        raise NotImplementedError


class SqliteSchema(Schema):
    """The table in SQLite."""

    def size(self) -> int:
        """Return the size of the whole file."""
        [[size]] = self._query("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return int(size)

    def widen_pk_sql(self) -> str:
        """Return nothing: SQLite's integers have 64 bits."""
        return ""

    def drop_index(self, name: str) -> None:
        """Drop an index. The index of a constraint disappears when `_complete_columns` replaces the table."""
        if not name.startswith("sqlite_autoindex"):
            super().drop_index(name)

    def _complete_columns(self) -> None:
        """Copy the rows to a new table, because SQLite cannot change columns. Views, triggers and indexes stay."""
        execute = self.database.execute_sql
        columns = ", ".join(self.model._meta.columns)
        attached = self._query(
            "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL",
            TABLE,
        )
        execute("PRAGMA legacy_alter_table = ON")  # Otherwise, views and triggers would follow the old table.
        execute(f"ALTER TABLE {TABLE} RENAME TO {TABLE}_incomplete")
        execute("PRAGMA legacy_alter_table = OFF")
        self.model._schema.create_table()
        execute(f"INSERT INTO {TABLE} ({columns}) SELECT {columns} FROM {TABLE}_incomplete")  # noqa: S608
        execute(f"DROP TABLE {TABLE}_incomplete")
        for (statement,) in attached:
            execute(statement)

    def _compares_bytes(self) -> bool:
        """Return False if the table's definition names a collation other than BINARY in any column."""
        [[definition]] = self._query("SELECT sql FROM sqlite_master WHERE name = ?", TABLE)
        return not re.search(r"\bcollate\W+(nocase|rtrim)\b", definition, re.IGNORECASE)

    def _unusable_indexes(self) -> Dict[str, str]:
        """Return the indexes with a condition, or with a collation other than BINARY."""
        unusable = {}
        for name, is_partial in self._query("SELECT name, partial FROM pragma_index_list(?)", TABLE):
            collations = self._query("SELECT coll FROM pragma_index_xinfo(?) WHERE key", name)
            if is_partial:
                unusable[name] = PARTIAL
            elif any(collation != "BINARY" for (collation,) in collations):
                unusable[name] = INEXACT
        return unusable


# A row of pg_collation is read as JSON, because its column collisdeterministic came with PostgreSQL 12.
COUNT_INEXACT_COLUMNS = """
    SELECT COUNT(*)
    FROM pg_attribute AS a LEFT JOIN pg_collation AS c ON c.oid = a.attcollation
    WHERE a.attrelid = %s::regclass AND a.attname = ANY(%s) AND NOT (
        a.atttypid IN ('text'::regtype, 'varchar'::regtype)
        AND COALESCE((TO_JSONB(c) ->> 'collisdeterministic')::boolean, true)
    )
"""
UNUSABLE_INDEXES = """
    SELECT name, is_partial, is_deferrable
    FROM (
        SELECT
            i.relname AS name,
            x.indpred IS NOT NULL OR NOT x.indisvalid AS is_partial,
            NOT x.indimmediate AS is_deferrable,
            EXISTS (
                SELECT 1
                FROM UNNEST(x.indcollation) AS used JOIN pg_collation AS c ON c.oid = used
                WHERE NOT COALESCE((TO_JSONB(c) ->> 'collisdeterministic')::boolean, true)
            ) AS is_inexact
        FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
        WHERE x.indrelid = %s::regclass
    ) AS indexes
    WHERE is_partial OR is_deferrable OR is_inexact
"""


class PostgresqlSchema(Schema):
    """The table in PostgreSQL."""

    database: PostgresqlBackend

    def size(self) -> int:
        """Return the size of the table with its indexes, in bytes."""
        [[size]] = self._query("SELECT pg_total_relation_size(%s::regclass)", self._table)
        return int(size)

    def drop_index(self, name: str) -> None:
        """Drop an index, or the constraint that it belongs to."""
        index = self.database.quoted(name)
        self.database.execute_sql(f"ALTER TABLE {self._table} DROP CONSTRAINT IF EXISTS {index}")
        self.database.execute_sql("DROP INDEX IF EXISTS " + self.database.qualified(index))

    def _check_schema(self) -> None:
        """Check the schema that the connection string sets, or otherwise the search path."""
        database = self.database
        [[current, path, role]] = self._query(
            "SELECT current_schema(), current_setting('search_path'), quote_ident(current_user)"
        )
        if current is not None and not database.schema:
            return
        names = [database.schema] if database.schema else [name.strip().strip('"') for name in path.split(",")]
        name = next((name for name in names if name and name != "$user"), "public")
        [[quoted, exists, is_usable]] = self._query(
            "SELECT quote_ident(%s), COUNT(*) > 0, BOOL_OR(has_schema_privilege(oid, 'USAGE')) "
            "FROM pg_namespace WHERE nspname = %s",
            name,
            name,
        )
        if not exists:
            raise MissingTableError(
                f"There is no schema {quoted} for the table {TABLE} in {database.masked_url}. Have an administrator "
                f"run: {database.mask(f'CREATE SCHEMA {quoted} AUTHORIZATION {role}')}"
            )
        if not is_usable:
            raise database.schema_error(quoted, role, f"permission denied for schema {quoted}")

    def _after_create(self) -> None:
        """Name the sequence of pk `id_seq`, unless a dropped table has left a sequence of that name."""
        if not self.database.sequence_exists("id_seq", self.database.schema):
            [[sequence]] = self._query("SELECT pg_get_serial_sequence(%s, 'pk')", self._table)
            self.database.execute_sql(f"ALTER SEQUENCE {sequence} RENAME TO id_seq")

    def _widening(self) -> str:
        """Widen pk and its sequence."""
        sequence = self.database.qualified("id_seq")
        return f"ALTER TABLE {self._table} ALTER pk TYPE BIGINT; ALTER SEQUENCE {sequence} AS BIGINT;"

    def _are_complete(self, columns: Dict[str, Any]) -> bool:
        """Return True if pk has a default."""
        return bool(columns["pk"].identity or columns["pk"].default)

    def _complete_columns(self) -> None:
        """Give pk a default, and the key columns a type and collation that compare byte for byte."""
        execute, table = self.database.execute_sql, self._table
        if not self._are_complete(self._columns()):
            sequence = self.database.qualified("id_seq")
            if self.database.sequence_exists("id_seq", self.database.schema):
                execute(f"ALTER TABLE {table} ALTER pk SET DEFAULT nextval('{sequence}')")
            else:
                execute(f"ALTER TABLE {table} ALTER pk ADD GENERATED BY DEFAULT AS IDENTITY")
                self._after_create()
                execute(f"SELECT setval('{sequence}', COALESCE(MAX(pk), 0) + 1, false) FROM {table}")  # noqa: S608
        if not self._compares_bytes():
            changes = ", ".join(f'ALTER {name} TYPE TEXT COLLATE "default"' for name in UNIQUE)
            execute(f"ALTER TABLE {table} {changes}")

    def _compares_bytes(self) -> bool:
        """Return False for other types, such as CITEXT and CHAR, and for nondeterministic collations."""
        [[inexact]] = self._query(COUNT_INEXACT_COLUMNS, self._table, list(UNIQUE))
        return not inexact

    def _unusable_indexes(self) -> Dict[str, str]:
        """Return the indexes that ON CONFLICT cannot use, and those with a nondeterministic collation."""
        unusable = {}
        for name, is_partial, is_deferrable in self._query(UNUSABLE_INDEXES, self._table):
            if is_partial:
                unusable[name] = PARTIAL
            else:
                unusable[name] = DEFERRABLE if is_deferrable else INEXACT
        return unusable


# The endings of collations that compare byte for byte, including trailing spaces: MariaDB's, MySQL's, VARBINARY's.
EXACT_COLLATIONS = ("_nopad_bin", "_0900_bin", "binary")


class MySQLSchema(Schema):
    """The table in MariaDB and MySQL."""

    database: MySQLBackend
    # Without transactional DDL, one statement must create the table and its indexes together.
    table_options = {
        "indexes": (),
        "constraints": [
            SQL(f"{'UNIQUE ' if is_unique else ''}INDEX ({', '.join(columns)})") for columns, is_unique in INDEXES
        ],
    }

    def size(self) -> int:
        """Return the server's estimate of the table's size with its indexes, in bytes."""
        [[size]] = self._query(
            "SELECT data_length + index_length FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_name = %s",
            TABLE,
        )
        return int(size)

    def drop_index(self, name: str) -> None:
        """Drop an index."""
        self.database.execute_sql(f"DROP INDEX {self.database.quoted(name)} ON {TABLE}")

    def _table_settings(self) -> Tuple[str, ...]:
        """Let keys compare byte for byte, whatever the database's default is."""
        collation = self.database.collation()
        return "ENGINE=InnoDB", "ROW_FORMAT=DYNAMIC", "DEFAULT CHARSET=utf8mb4", f"COLLATE={collation}"

    def _next_pk(self) -> Any:
        """Use MariaDB's syntax. MySQL has no sequences."""
        return SQL("NEXT VALUE FOR id_seq")

    def _widening(self) -> str:
        """Widen pk."""
        return f"ALTER TABLE {TABLE} MODIFY pk BIGINT NOT NULL AUTO_INCREMENT;"

    def _max_value_bytes(self, column: Any) -> Optional[int]:
        """Return the limit of the column's type: https://mariadb.com/kb/en/text/."""
        return {"tinytext": 255, "text": 65_535, "mediumtext": 16_777_215}.get(column.data_type.lower())

    def _are_complete(self, columns: Dict[str, Any]) -> bool:
        """Return True if the columns have the types of `COLUMN_TYPES` and pk has a default."""
        return bool(columns["pk"].identity) and all(
            columns[name].full_type.upper() == column_type for name, column_type in COLUMN_TYPES.items()
        )

    def _complete_columns(self) -> None:
        """Set the columns' types and collation and the default of pk, in one copy of the table."""
        changes = [f"MODIFY {name} {column_type} NOT NULL" for name, column_type in COLUMN_TYPES.items()]
        self.database.execute_sql(
            f"ALTER TABLE {TABLE} CONVERT TO CHARACTER SET utf8mb4 COLLATE {self.database.collation()}, "
            f"MODIFY pk BIGINT NOT NULL AUTO_INCREMENT, {', '.join(changes)}"
        )

    def _compares_bytes(self) -> bool:
        """Return True if the collations of the key columns distinguish case, accents and trailing spaces."""
        rows = self._query(
            "SELECT collation_name FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND table_name = %s AND column_name IN (%s, %s, %s)",
            TABLE,
            *UNIQUE,
        )
        return all(str(collation).endswith(EXACT_COLLATIONS) for (collation,) in rows)

    def _unusable_indexes(self) -> Dict[str, str]:
        """Return the indexes over prefixes, and all indexes if the columns do not compare byte for byte."""
        rows = self._query(f"SHOW INDEX FROM {TABLE}")
        # The columns of the result: https://mariadb.com/kb/en/show-index/
        unusable = {} if self._compares_bytes() else dict.fromkeys((row[2] for row in rows), INEXACT)
        return {**unusable, **{row[2]: PREFIX for row in rows if row[7] is not None}}


_SCHEMAS: Dict[Type[peewee.Database], Type[Schema]] = {
    peewee.SqliteDatabase: SqliteSchema,
    peewee.PostgresqlDatabase: PostgresqlSchema,
    peewee.MySQLDatabase: MySQLSchema,
}


def schema_of(database: Backend) -> Schema:
    """Return the `Schema` of a database. The table need not exist yet."""
    return _SCHEMAS[database.peewee_class](database)

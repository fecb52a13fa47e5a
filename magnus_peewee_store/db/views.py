"""Views of values inside JSON documents, for SQL clients that want rows and numbers, in the SQL of each database."""

from typing import Callable, ClassVar, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

import peewee

from magnus_peewee_store.db.base import TABLE, Backend
from magnus_peewee_store.db.sqlite import json_path

# Python writes these tokens into JSON, but databases accept them only in quotes.
UNQUOTED_TOKENS = ("NaN", "Infinity", "-Infinity")
BEFORE_VALUE = (": ", ", ", "[")  # what stands before a value in JSON that Python writes
FUNCTION = "db_log_json"  # on PostgreSQL


class ViewSql:
    """The SQL of views on a database. The arguments and results of its methods are SQL expressions."""

    # Templates of the statements for a `View`: without a member, and with one.
    value_view: ClassVar[str]
    member_view: ClassVar[str]
    fence: ClassVar[str] = ""  # ends a subquery whose expressions must not be evaluated more often than once a row
    functions: ClassVar[Dict[str, str]] = {}  # by signature, CREATE FUNCTION statements for {function}
    matches, integer = "REGEXP", "SIGNED"  # the operator for regular expressions, and the type to cast to

    def __init__(self, database: Backend) -> None:
        self.database = database
        self.table = database.qualified(TABLE)
        self.document = self.parse("log.attribute_value", _with_quotes("log.attribute_value"))
        """The document of a row named `log`, or NULL if it is not JSON."""

    def parse(self, value: str, quoted: str) -> str:
        """Return a value, or else the value with quotes around NaN, as JSON; NULL if neither is JSON."""
        return f"CASE WHEN json_valid({value}) THEN {value} WHEN json_valid({quoted}) THEN {quoted} END"

    def json_text(self, document: str, *path: Union[str, int]) -> str:
        """Return the text of the value at a path of a JSON document, or NULL. Index -1 is the last."""
        raise NotImplementedError

    def to_offset(self, text: str) -> str:
        """Convert a text to seconds; to NULL if it is not an integer of at most 5 digits."""
        return f"CASE WHEN {text} {self.matches} '^-?[0-9]{{1,5}}$' THEN CAST({text} AS {self.integer}) END"

    def to_utc(self, text: str, offset: str) -> str:
        """Return the time in UTC of a text with a local time, given its offset in seconds."""
        raise NotImplementedError

    def seconds_between(self, start: str, end: str) -> str:
        """Return the seconds between two times or texts with times, with milliseconds."""
        raise NotImplementedError

    def position(self, text: str, value: str) -> str:
        """Return the position of a text in a value, from 1; 0 if it is absent."""
        return f"INSTR({value}, {text})"

    def concat(self, *texts: str) -> str:
        """Return several texts as one, or NULL if one of them is NULL."""
        return f"({' || '.join(texts)})"


_SQLITE_VALUES = """
    CASE WHEN {0}.type IN ('integer', 'real') THEN {0}.value END AS value,
    CASE
        WHEN {0}.type IN ('true', 'false') THEN {0}.type
        WHEN {0}.type != 'real' OR CAST(CAST({0}.value AS TEXT) AS REAL) = {0}.value THEN CAST({0}.value AS TEXT)
        -- The text has 15 digits. Two numbers may have the same text.
        WHEN CAST(PRINTF('%!.16g', {0}.value) AS REAL) = {0}.value THEN PRINTF('%!.16g', {0}.value)
        ELSE PRINTF('%!.17g', {0}.value)
    END AS text
"""
# Whether the text `digits` is a whole number as `metrics.is_iteration` knows it.
_IS_ITERATION = """
    digits != '' AND digits NOT GLOB '*[^0-9]*' AND LENGTH(digits) <= 18 AND (digits = '0' OR digits NOT GLOB '0*')
"""
_SQLITE_IS_SERIES = f"""
    CASE member.type WHEN 'object' THEN (
        SELECT COUNT(*) > 1 AND MIN({_IS_ITERATION})
        FROM (SELECT CASE WHEN key LIKE '-%' THEN SUBSTR(key, 2) ELSE key END AS digits FROM json_each(member.value))
    ) ELSE FALSE END
"""  # noqa: S608 - constants


class SqliteViewSql(ViewSql):
    """The SQL of views on SQLite."""

    value_view = f"""
        CREATE VIEW {{view}} AS SELECT
            log.run_id AS run_id, log.attribute_key AS {{key_column}}, {_SQLITE_VALUES.format("member")}
        FROM {{table}} AS log, json_each('[' || {{document}} || ']') AS member WHERE log.attribute_type IN ({{types}})
    """  # noqa: S608 - constants
    member_view = f"""
        CREATE VIEW {{view}} AS SELECT
            log.run_id AS run_id, log.attribute_key AS {{key_column}}, member.key AS {{member_column}},
            NULL AS iteration, {_SQLITE_VALUES.format("member")}
        FROM {{table}} AS log, json_each({{document}}, '$.{{member}}') AS member
        WHERE log.attribute_type IN ({{types}}) AND NOT ({_SQLITE_IS_SERIES})
        UNION ALL SELECT
            log.run_id, log.attribute_key, member.key, CAST(point.key AS INTEGER), {_SQLITE_VALUES.format("point")}
        FROM {{table}} AS log, json_each({{document}}, '$.{{member}}') AS member, json_each(member.value) AS point
        WHERE log.attribute_type IN ({{types}}) AND {_SQLITE_IS_SERIES}
            AND (point.type != 'object' OR point.value = '{{{{}}}}')
        UNION ALL SELECT
            log.run_id, log.attribute_key, member.key || '.' || leaf.key, CAST(point.key AS INTEGER),
            {_SQLITE_VALUES.format("leaf")}
        FROM {{table}} AS log, json_each({{document}}, '$.{{member}}') AS member, json_each(member.value) AS point,
            json_each(CASE point.type WHEN 'object' THEN point.value END) AS leaf
        -- Most series have no dictionary inside, and need not be taken apart.
        WHERE log.attribute_type IN ({{types}}) AND INSTR(SUBSTR(member.value, 2), '{{{{') AND {_SQLITE_IS_SERIES}
    """  # noqa: S608 - constants

    def json_text(self, document: str, *path: Union[str, int]) -> str:
        """Use json_extract."""
        return f"CAST(json_extract({document}, '{json_path(path)}') AS TEXT)"

    def to_offset(self, text: str) -> str:
        """Compare with the integer: SQLite has no regular expressions."""
        number = f"CAST({text} AS INTEGER)"
        return f"CASE WHEN CAST({number} AS TEXT) = {text} AND ABS({number}) < 100000 THEN {number} END"

    def to_utc(self, text: str, offset: str) -> str:
        """Use the modifiers of STRFTIME. Times have milliseconds."""
        return f"STRFTIME('%Y-%m-%d %H:%M:%f', {text}, (-{offset}) || ' seconds')"

    def seconds_between(self, start: str, end: str) -> str:
        """Use Julian days."""
        return f"ROUND((JULIANDAY({end}) - JULIANDAY({start})) * 86400, 3)"


_POSTGRESQL_VALUES = """
    CASE
        WHEN jsonb_typeof({value}) = 'number' AND ABS(({value} #>> '{{{{}}}}')::numeric) <= 1.7976931348623157e308
        THEN ({value} #>> '{{{{}}}}')::double precision
    END AS value,
    {value} #>> '{{{{}}}}' AS text
"""


# The 29th and later days are not checked further: magnus writes no dates that do not exist.
_TIME = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[ T]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]+)?$"


def _to_timestamp(text: str) -> str:
    return f"(CASE WHEN {text} ~ '{_TIME}' THEN CAST({text} AS TIMESTAMP) END)"


class PostgresqlViewSql(ViewSql):
    """The SQL of views on PostgreSQL."""

    value_view = f"""
        CREATE VIEW {{view}} AS SELECT log.run_id, log.attribute_key AS {{key_column}},
            {_POSTGRESQL_VALUES.format(value="parsed.document")}
        FROM {{table}} AS log CROSS JOIN LATERAL (SELECT {{document}} AS document OFFSET 0) AS parsed
        WHERE log.attribute_type IN ({{types}}) AND parsed.document IS NOT NULL
    """  # noqa: S608 - constants
    member_view = f"""
        CREATE VIEW {{view}} AS SELECT log.run_id, log.attribute_key AS {{key_column}}, point.name AS {{member_column}},
            point.iteration, {_POSTGRESQL_VALUES.format(value="point.value")}
        FROM {{table}} AS log
        CROSS JOIN LATERAL (SELECT {{document}} -> '{{member}}' AS members OFFSET 0) AS parsed
        CROSS JOIN LATERAL jsonb_each(
            CASE jsonb_typeof(parsed.members) WHEN 'object' THEN parsed.members END
        ) AS member
        CROSS JOIN LATERAL (
            SELECT CASE jsonb_typeof(member.value) WHEN 'object' THEN (
                SELECT COUNT(*) > 1 AND BOOL_AND(key ~ '^-?(0|[1-9][0-9]{{{{0,17}}}})$')
                FROM jsonb_object_keys(member.value) AS key
            ) ELSE FALSE END AS is_series
        ) AS kind
        CROSS JOIN LATERAL (
            SELECT NULL AS iteration, member.key AS name, member.value WHERE NOT kind.is_series
            UNION ALL
            SELECT each.key::bigint, CONCAT_WS('.', member.key, leaf.key), COALESCE(leaf.value, each.value)
            FROM jsonb_each(CASE WHEN kind.is_series THEN member.value END) AS each
            LEFT JOIN LATERAL jsonb_each(
                CASE jsonb_typeof(each.value) WHEN 'object' THEN each.value END
            ) AS leaf ON TRUE
        ) AS point
        WHERE log.attribute_type IN ({{types}})
    """  # noqa: S608 - constants
    matches, integer = "~", "INTEGER"
    fence = "OFFSET 0"
    # Casting a text that is not JSON raises an error, which would make every query on the view fail.
    functions = {
        f"{FUNCTION}(text, text)": """
            CREATE FUNCTION {function}(document text, quoted text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
            BEGIN
                RETURN document::jsonb;
            EXCEPTION WHEN data_exception THEN
                BEGIN
                    RETURN quoted::jsonb;
                EXCEPTION WHEN data_exception THEN
                    RETURN NULL;
                END;
            END $$
        """
    }

    def parse(self, value: str, quoted: str) -> str:
        """Use the function."""
        return f"{self.database.qualified(FUNCTION)}({value}, {quoted})"

    def json_text(self, document: str, *path: Union[str, int]) -> str:
        """Use the operator #>>."""
        return f"({document} #>> '{{{','.join(map(str, path))}}}')"

    def to_utc(self, text: str, offset: str) -> str:
        """Cast only what is a time: a cast that fails would make every query on the view fail."""
        return f"({_to_timestamp(text)} - {offset} * INTERVAL '1 second')"

    def seconds_between(self, start: str, end: str) -> str:
        """Use intervals."""
        times = [_to_timestamp(f"CAST({each} AS TEXT)") for each in (end, start)]
        return f"CAST(ROUND(CAST(EXTRACT(EPOCH FROM {times[0]} - {times[1]}) AS NUMERIC), 3) AS DOUBLE PRECISION)"

    def position(self, text: str, value: str) -> str:
        """Use STRPOS."""
        return f"STRPOS({value}, {text})"


# A member is found by its ordinal, because MariaDB does not find a key that the document writes with escapes.
# Nor does it find a key like "-1".
_MEMBER = "JSON_EXTRACT(JSON_EXTRACT({document}, '$.{member}.*'), CONCAT('$[', member.ordinal - 1, ']'))"
_POINT = f"JSON_EXTRACT(JSON_EXTRACT({_MEMBER}, '$.*'), CONCAT('$[', point.ordinal - 1, ']'))"
_LEAF = f"JSON_EXTRACT(JSON_EXTRACT({_POINT}, '$.*'), CONCAT('$[', leaf.ordinal - 1, ']'))"
# Few documents have dictionaries in a series. The text tells it sooner than the parsed points.
_MAY_HAVE_LEAVES = """log.attribute_value REGEXP '"-?[0-9]+":[[:space:]]*[{{]'"""
_HAS_LEAVES = f"JSON_TYPE({_POINT}) = 'OBJECT' AND JSON_LENGTH({_POINT}) > 0"
_KEYS = "JSON_TABLE({}, '$[*]' COLUMNS (ordinal FOR ORDINALITY, name VARCHAR(512) CHARACTER SET utf8mb4 PATH '$'))"
# All keys are whole numbers as `metrics.is_iteration` knows them: without them, the list of keys is empty.
_MYSQL_IS_SERIES = f"""
    JSON_TYPE({_MEMBER}) = 'OBJECT' AND JSON_LENGTH({_MEMBER}) > 1
    AND REGEXP_REPLACE(
        REPLACE(REPLACE(JSON_KEYS({_MEMBER}), '[', ''), ']', ''), '"-?(0|[1-9][0-9]{{{{0,17}}}})"|,| ', ''
    ) = ''
"""
_MYSQL_VALUES = """
    CASE
        WHEN JSON_TYPE({value}) IN ('INTEGER', 'DOUBLE', 'DECIMAL', 'UNSIGNED INTEGER') THEN {value} + 0e0
    END AS value,
    CASE WHEN JSON_TYPE({value}) != 'NULL' THEN JSON_UNQUOTE({value}) END AS text
"""


class MySQLViewSql(ViewSql):
    """The SQL of views on MariaDB and MySQL."""

    value_view = f"""
        CREATE VIEW {{view}} AS SELECT log.run_id AS run_id, log.attribute_key AS {{key_column}},
            {_MYSQL_VALUES.format(value="JSON_EXTRACT({document}, '$')")}
        FROM {{table}} AS log WHERE log.attribute_type IN ({{types}}) AND {{document}} IS NOT NULL
    """  # noqa: S608 - constants
    member_view = f"""
        CREATE VIEW {{view}} AS SELECT
            log.run_id AS run_id, log.attribute_key AS {{key_column}}, member.name AS {{member_column}},
            NULL AS iteration, {_MYSQL_VALUES.format(value=_MEMBER)}
        FROM {{table}} AS log, {_KEYS.format("JSON_KEYS({document}, '$.{member}')")} AS member
        WHERE log.attribute_type IN ({{types}}) AND NOT ({_MYSQL_IS_SERIES})
        UNION ALL SELECT
            log.run_id, log.attribute_key, member.name, CAST(point.name AS SIGNED), {_MYSQL_VALUES.format(value=_POINT)}
        FROM {{table}} AS log, {_KEYS.format("JSON_KEYS({document}, '$.{member}')")} AS member,
            {_KEYS.format(f"JSON_KEYS({_MEMBER})")} AS point
        WHERE log.attribute_type IN ({{types}}) AND {_MYSQL_IS_SERIES} AND NOT ({_MAY_HAVE_LEAVES} AND {_HAS_LEAVES})
        UNION ALL SELECT
            log.run_id, log.attribute_key, CONCAT(member.name, '.', leaf.name), CAST(point.name AS SIGNED),
            {_MYSQL_VALUES.format(value=_LEAF)}
        FROM {{table}} AS log, {_KEYS.format("JSON_KEYS({document}, '$.{member}')")} AS member,
            {_KEYS.format(f"JSON_KEYS({_MEMBER})")} AS point, {_KEYS.format(f"JSON_KEYS({_POINT})")} AS leaf
        WHERE log.attribute_type IN ({{types}}) AND {_MAY_HAVE_LEAVES} AND {_MYSQL_IS_SERIES} AND {_HAS_LEAVES}
    """  # noqa: S608 - constants

    def json_text(self, document: str, *path: Union[str, int]) -> str:
        """Use JSON_EXTRACT. A JSON null becomes NULL."""
        parts = "".join(f'."{part}"' if isinstance(part, str) else f"[{part}]" for part in path)
        # MariaDB 10.11 does not find [last] in every array.
        before, is_last, after = parts.partition("[-1]")
        last = f"CONCAT('${before}[', GREATEST(JSON_LENGTH({document}, '${before}') - 1, 0), ']{after}')"
        found = f"JSON_EXTRACT({document}, {last if is_last else repr('$' + parts)})"
        return f"NULLIF(JSON_UNQUOTE({found}), 'null')"

    def to_utc(self, text: str, offset: str) -> str:
        """Use intervals. A text that is not a time becomes NULL."""
        return f"CAST({text} AS DATETIME(6)) - INTERVAL {offset} SECOND"

    def seconds_between(self, start: str, end: str) -> str:
        """Use TIMESTAMPDIFF."""
        start, end = (f"CAST({each} AS DATETIME(6))" for each in (start, end))
        return f"ROUND(TIMESTAMPDIFF(MICROSECOND, {start}, {end}) / 1e6, 3)"

    def concat(self, *texts: str) -> str:
        """Use CONCAT: || may mean OR."""
        return f"CONCAT({', '.join(texts)})"


_SQL: Dict[Type[peewee.Database], Type[ViewSql]] = {
    peewee.SqliteDatabase: SqliteViewSql,
    peewee.PostgresqlDatabase: PostgresqlViewSql,
    peewee.MySQLDatabase: MySQLViewSql,
}


class View(NamedTuple):
    """A view with a row for each value: run_id, the columns named here, `value` and `text`.

    `value` is the number, or NULL if the value is not a number. `text` is the value as text. A document that is not
    JSON has no rows.
    """

    name: str
    types: Tuple[str, ...]
    """The types of the rows that hold the documents."""
    key_column: str
    """The view's name for attribute_key."""
    member: Optional[str] = None
    """The document's member whose own members are the values; None if the document itself is the value."""
    member_column: str = ""
    """The view's name for the keys of those members."""


class SelectView(NamedTuple):
    """A view on a query."""

    name: str
    select: Callable[[ViewSql], str]
    """Returns the query."""


AnyView = Union[View, SelectView]


def create_views(database: Backend, views: Sequence[AnyView]) -> List[str]:
    """Create or replace views, and return their names."""
    database.retry(_create, database, views)
    return [view.name for view in views]


def drop_views(database: Backend, views: Sequence[AnyView]) -> List[str]:
    """Drop views that exist, and return their names."""
    present = database.retry(lambda: [each.name for each in database.get_views(database.schema)])
    database.retry(_drop, database, views)
    return [view.name for view in views if view.name in present]


def _create(database: Backend, views: Sequence[AnyView]) -> None:
    sql = _SQL[database.peewee_class](database)
    # Of several processes that create them, each replaces the views of the one before.
    with database.run_lock(TABLE):
        _drop_all(database, views)
        for statement in sql.functions.values():
            database.execute_sql(statement.replace("{function}", database.qualified(FUNCTION)))
        for view in views:
            if isinstance(view, SelectView):
                database.execute_sql(f"CREATE VIEW {database.qualified(view.name)} AS {view.select(sql)}")
                continue
            template = sql.value_view if view.member is None else sql.member_view
            database.execute_sql(
                template.format(
                    view=database.qualified(view.name),
                    table=sql.table,
                    types=", ".join(f"'{each}'" for each in view.types),
                    key_column=view.key_column,
                    member=view.member,
                    member_column=view.member_column,
                    document=sql.document,
                )
            )


def _drop(database: Backend, views: Sequence[AnyView]) -> None:
    with database.run_lock(TABLE):
        _drop_all(database, views)


def _drop_all(database: Backend, views: Sequence[AnyView]) -> None:
    for view in reversed(views):  # A view may use those before it.
        database.execute_sql(f"DROP VIEW IF EXISTS {database.qualified(view.name)}")
    for signature in _SQL[database.peewee_class].functions:
        database.execute_sql(f"DROP FUNCTION IF EXISTS {database.qualified(signature)}")


def _with_quotes(value: str) -> str:
    """Return the SQL for a document with quotes around the tokens."""
    expression = value
    for token in UNQUOTED_TOKENS:
        for before in BEFORE_VALUE:
            expression = f"REPLACE({expression}, '{before}{token}', '{before}\"{token}\"')"
    # A token may also be the whole document.
    whole = " ".join(f"WHEN '{token}' THEN '\"{token}\"'" for token in UNQUOTED_TOKENS)
    return f"CASE {value} {whole} ELSE {expression} END"

"""Views of values inside JSON documents, for SQL clients that want rows and numbers."""

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple, Union

from magnus_peewee_store.db.base import TABLE, VIEW_FUNCTION, Backend

# Python writes these tokens into JSON, but databases accept them only in quotes.
UNQUOTED_TOKENS = ("NaN", "Infinity", "-Infinity")
BEFORE_VALUE = (": ", ", ", "[")  # what stands before a value in JSON that Python writes


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
    select: Callable[[Backend, str], str]
    """Returns the query, given the SQL expression for the document of a row named `log`."""


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
    # Of several processes that create them, each replaces the views of the one before.
    with database.run_lock(TABLE):
        _drop_all(database, views)
        document = database.view_document.format(
            value="log.attribute_value",
            quoted=_document_with_quotes(),
            function=database.qualified(VIEW_FUNCTION),
        )
        for statement in database.view_functions.values():
            database.execute_sql(statement.replace("{function}", database.qualified(VIEW_FUNCTION)))
        for view in views:
            if isinstance(view, SelectView):
                select = view.select(database, document)
                database.execute_sql(f"CREATE VIEW {database.qualified(view.name)} AS {select}")
                continue
            template = database.value_view if view.member is None else database.member_view
            database.execute_sql(
                template.format(
                    view=database.qualified(view.name),
                    table=database.qualified(TABLE),
                    types=", ".join(f"'{each}'" for each in view.types),
                    key_column=view.key_column,
                    member=view.member,
                    member_column=view.member_column,
                    document=document,
                )
            )


def _drop(database: Backend, views: Sequence[AnyView]) -> None:
    with database.run_lock(TABLE):
        _drop_all(database, views)


def _drop_all(database: Backend, views: Sequence[AnyView]) -> None:
    for view in reversed(views):  # A view may use those before it.
        database.execute_sql(f"DROP VIEW IF EXISTS {database.qualified(view.name)}")
    for signature in database.view_functions:
        database.execute_sql(f"DROP FUNCTION IF EXISTS {database.qualified(signature)}")


def _document_with_quotes() -> str:
    """Return the SQL for the document with quotes around the tokens."""
    expression = "log.attribute_value"
    for token in UNQUOTED_TOKENS:
        for before in BEFORE_VALUE:
            expression = f"REPLACE({expression}, '{before}{token}', '{before}\"{token}\"')"
    # A token may also be the whole document.
    whole = " ".join(f"WHEN '{token}' THEN '\"{token}\"'" for token in UNQUOTED_TOKENS)
    return f"CASE log.attribute_value {whole} ELSE {expression} END"

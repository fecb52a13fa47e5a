"""Views of values inside JSON documents, for SQL clients that want rows and numbers."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

from magnus_peewee_store.db.backends import Backend
from magnus_peewee_store.db.backends.base import TABLE

# Python writes tokens for these numbers that databases do not take for JSON. As texts they do.
NOT_NUMBERS = ("NaN", "Infinity", "-Infinity")
BEFORE_VALUE = (": ", ", ", "[")


class View(NamedTuple):
    """A view with a row for each value: run_id, the columns named here, `value` and `text`.

    `value` is the value if it is a number, else NULL. `text` is the value as text. Documents that are not JSON have no
    rows.
    """

    name: str
    types: Tuple[str, ...]
    """Which rows of the table."""
    key_column: str
    """What attribute_key is called."""
    member: Optional[str] = None
    """The document's member whose own members are the values; None if the document itself is the value."""
    member_column: str = ""
    """What the keys of those members are called."""


def create_views(database: Backend, views: Sequence[View]) -> List[str]:
    """Create views, or create them again, and return their names."""
    database.retry(lambda attempt: _create(database, views))
    return [view.name for view in views]


def drop_views(database: Backend, views: Sequence[View]) -> List[str]:
    """Drop views that exist, and return their names."""
    present = database.retry(lambda attempt: [each.name for each in database.get_views()])
    database.retry(lambda attempt: _drop(database, views))
    return [view.name for view in views if view.name in present]


def _create(database: Backend, views: Sequence[View]) -> None:
    _drop(database, views)
    with database.atomic():
        for statement in database.view_functions.values():
            database.execute_sql(statement)
        for view in views:
            template = database.value_view if view.member is None else database.member_view
            database.execute_sql(
                template.format(
                    view=view.name,
                    table=TABLE,
                    types=", ".join(f"'{each}'" for each in view.types),
                    key_column=view.key_column,
                    member=view.member,
                    member_column=view.member_column,
                    document=database.view_document.format(value="log.attribute_value", quoted=_quote_not_numbers()),
                )
            )


def _drop(database: Backend, views: Sequence[View]) -> None:
    with database.atomic():
        for view in views:
            database.execute_sql(f"DROP VIEW IF EXISTS {view.name}")
        for function in database.view_functions:
            database.execute_sql(f"DROP FUNCTION IF EXISTS {function}")


def _quote_not_numbers() -> str:
    expression = "log.attribute_value"
    for token in NOT_NUMBERS:
        for before in BEFORE_VALUE:
            expression = f"REPLACE({expression}, '{before}{token}', '{before}\"{token}\"')"
    # A document may be nothing else.
    whole = " ".join(f"WHEN '{token}' THEN '\"{token}\"'" for token in NOT_NUMBERS)
    return f"CASE log.attribute_value {whole} ELSE {expression} END"

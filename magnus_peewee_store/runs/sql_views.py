"""Create views of metrics and parameters for SQL clients."""

from typing import List

from magnus_peewee_store import fragments
from magnus_peewee_store.db import views
from magnus_peewee_store.db.views import View
from magnus_peewee_store.store import DBStore

VIEWS = (
    View("run_metrics", fragments.STEP, "step", "user_defined_metrics", "metric"),
    View("run_params", fragments.PARAMETER, "param"),
)


def create_views(store: DBStore) -> List[str]:
    """Create or replace the views `run_metrics` and `run_params` for SQL clients. The table must exist.

    `run_metrics` has the columns `run_id`, `step`, `metric`, `value` and `text`. `run_params` has `run_id`, `param`,
    `value` and `text`. `value` is the number, or NULL if the value is not a number. `text` is the value as text.

    Returns:
        The names of the views.
    """
    return views.create_views(store.table.database, VIEWS)


def drop_views(store: DBStore) -> List[str]:
    """Drop the views of `create_views`, and return the names of those that existed."""
    return views.drop_views(store.table.database, VIEWS)

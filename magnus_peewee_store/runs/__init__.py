"""The Python API over runs, for the command line, notebooks and scripts.

Most functions take a `DBStore` as their first argument, such as the one that `open_store` returns.
"""

from magnus_peewee_store.runs.annotate import add_note, delete_note, edit_note, mark_failed, tag_run, untag_run
from magnus_peewee_store.runs.compare import compare, diff
from magnus_peewee_store.runs.frames import metric_history, metrics_dataframe, plot, to_dataframe
from magnus_peewee_store.runs.lineage import lineage, upstream, versions
from magnus_peewee_store.runs.read import Run, find_run, read_run
from magnus_peewee_store.runs.search import Condition, list_runs, search
from magnus_peewee_store.runs.sql import create_views, drop_views
from magnus_peewee_store.runs.summaries import RunSummary, summarize
from magnus_peewee_store.runs.transfer import copy_runs, export_runs, find_run_logs, import_runs
from magnus_peewee_store.runs.upkeep import check, delete_runs, prunable

__all__ = [
    "Condition",
    "Run",
    "RunSummary",
    "add_note",
    "check",
    "compare",
    "copy_runs",
    "create_views",
    "delete_note",
    "delete_runs",
    "diff",
    "drop_views",
    "edit_note",
    "export_runs",
    "find_run",
    "find_run_logs",
    "import_runs",
    "lineage",
    "list_runs",
    "mark_failed",
    "metric_history",
    "metrics_dataframe",
    "plot",
    "prunable",
    "read_run",
    "search",
    "summarize",
    "tag_run",
    "to_dataframe",
    "untag_run",
    "upstream",
    "versions",
]

"""The Python API over runs, for the command line, notebooks and scripts.

Most functions take a `DBStore` as their first argument, such as the one that `open_store` returns.
"""

from magnus_peewee_store.runs.annotations import Note, add_note, tag_run, untag_run
from magnus_peewee_store.runs.checking import CheckReport, check
from magnus_peewee_store.runs.comparing import Differences, StepState, compare, diff
from magnus_peewee_store.runs.conditions import Condition
from magnus_peewee_store.runs.copying import copy_runs, find_differing
from magnus_peewee_store.runs.ending import mark_failed
from magnus_peewee_store.runs.files import export_runs, find_run_logs, import_runs
from magnus_peewee_store.runs.finding import find_run
from magnus_peewee_store.runs.frames import metrics_dataframe, to_dataframe
from magnus_peewee_store.runs.listing import RunSummary, summarize
from magnus_peewee_store.runs.liveness import Liveness
from magnus_peewee_store.runs.outcomes import Outcome
from magnus_peewee_store.runs.pruning import Prunable, delete_runs, prunable
from magnus_peewee_store.runs.reading import Run, UnreadableRow, read_run
from magnus_peewee_store.runs.searching import list_runs, search
from magnus_peewee_store.runs.sql_views import create_views, drop_views
from magnus_peewee_store.runs.tracing import DataUse, lineage

__all__ = [
    "CheckReport",
    "Condition",
    "DataUse",
    "Differences",
    "Liveness",
    "Note",
    "Outcome",
    "Prunable",
    "Run",
    "RunSummary",
    "StepState",
    "UnreadableRow",
    "add_note",
    "check",
    "compare",
    "copy_runs",
    "create_views",
    "delete_runs",
    "diff",
    "drop_views",
    "export_runs",
    "find_differing",
    "find_run",
    "find_run_logs",
    "import_runs",
    "lineage",
    "list_runs",
    "mark_failed",
    "metrics_dataframe",
    "prunable",
    "read_run",
    "search",
    "summarize",
    "tag_run",
    "to_dataframe",
    "untag_run",
]

"""The table of a report: the fields, parameters and metrics of many runs, as options of DataTables.

See https://datatables.net/reference/option.
"""

import html
import itertools
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Dict, List, Optional, Sequence, Set

from magnus_peewee_store.metrics import is_finite
from magnus_peewee_store.runs.search import FIELDS, METRICS, PARAMS, all_names, as_text, headings, rounded
from magnus_peewee_store.runs.summaries import RunSummary
from magnus_peewee_store.timeline.layout import shorten
from magnus_peewee_store.timeline.page import shorten_front, shorten_hash
from magnus_peewee_store.timeline.styles import status_style
from magnus_peewee_store.timeline.svg import replace_invalid
from magnus_peewee_store.times import format_duration, format_time

LONGEST_VALUE = 100  # characters
LARGEST_INTEGER = 2**53  # JavaScript rounds larger ones


@dataclass(frozen=True)
class Column:
    """A field, parameter or metric, with its value for each run. None stands for no value."""

    name: str
    """The full name, such as `metrics.train.rmse`."""
    heading: str
    values: List[Any]

    @cached_property
    def numbers(self) -> List[Optional[float]]:
        """The finite numbers among the values, to 6 significant digits; None for all other values."""
        return [rounded(value) if is_finite(value) else None for value in self.values]

    @cached_property
    def has_numbers(self) -> bool:
        """True if a value is a finite number."""
        return any(number is not None for number in self.numbers)

    @cached_property
    def is_numeric(self) -> bool:
        """True if there are values, and all of them are finite numbers."""
        return self.has_numbers and self.numbers.count(None) == self.values.count(None)

    @cached_property
    def texts(self) -> List[Optional[str]]:
        """The values as texts; None for no value."""
        return [None if value is None else short_text(value) for value in self.values]

    @cached_property
    def varies(self) -> bool:
        """True if two runs have different values."""
        return len({*self.texts} - {None}) > 1


def field_columns(found: Sequence[RunSummary]) -> List[Column]:
    """Return a column for each field that a run has a value for. The first is the id."""
    columns = []
    for name, get_value in FIELDS.items():
        values = [None if value == "" else value for value in map(get_value, found)]
        if name == "run_id" or any(value is not None for value in values):
            columns.append(Column(name, name.replace("_", " "), values))
    return columns


def value_columns(found: Sequence[RunSummary], prefix: str, limit: int) -> List[Column]:
    """Return a column for each parameter or metric; if there are more than `limit`, for those that most runs have."""
    names = [*all_names(found, PARAMS), *all_names(found, METRICS)]
    heading_of = dict(zip(names, headings(names)))
    dictionaries = [run.params if prefix == PARAMS else run.metrics for run in found]
    counts = Counter(f"{prefix}{name}" for dictionary in dictionaries for name in dictionary)
    kept = {name for name, _ in counts.most_common(limit)}
    return [
        Column(name, heading_of[name], [dictionary.get(name[len(prefix) :]) for dictionary in dictionaries])
        for name in counts
        if name in kept
    ]


def short_text(value: Any) -> str:
    """Return a value as `magnus db runs` shows it. A long text is shortened in the middle."""
    if isinstance(value, datetime):
        return format_time(value)
    return shorten(as_text(rounded(value)), LONGEST_VALUE)


def escape(text: str) -> str:
    """Escape a text for HTML, since DataTables shows texts as HTML."""
    return html.escape(replace_invalid(text))


MOST_SHOWN = 8  # parameters, and as many metrics, that the table shows at first
# Fields that the table shows at first only if they vary, or never at first.
ORIGIN = ("pipeline", "project", "commit", "user", "host", "environment")
HIDDEN = ("state", "steps_done", "steps_known")
ALWAYS_DIFFER = ("started", "duration", "state")  # fields that a comparison leaves out
LONGEST_ID, LONGEST_HEADING = 60, 36  # characters

TABLE: Dict[str, Any] = {
    "columnDefs": [{"targets": "_all", "type": "value", "defaultContent": ""}],  # table.js defines the type
    "order": [],
    "autoWidth": False,
    "pageLength": 25,
    "layout": {
        "topStart": {"buttons": [{"extend": "colvis", "text": "Columns", "columns": ":gt(0)", "background": False}]},
        "topEnd": "search",
        "bottomStart": "info",
        "bottomEnd": "paging",
    },
    "language": {"search": "Search", "emptyTable": "No runs match.", "info": "_START_ to _END_ of _TOTAL_"},
}
# Some cells are objects. This says which key DataTables uses to display or to sort them. "_" is for all other uses.
RENDER: Dict[str, Dict[str, str]] = {
    "run_id": {"_": "text", "display": "html"},
    "status": {"_": "text", "display": "html"},
    "commit": {"_": "text", "display": "short"},
    "duration": {"_": "text", "sort": "seconds"},
}


def table_options(
    found: Sequence[RunSummary],
    fields: Sequence[Column],
    params: Sequence[Column],
    metrics: Sequence[Column],
    urls: Sequence[str],
) -> Dict[str, Any]:
    """Return the columns and the rows of the table. `urls` are the addresses of the pages of the runs."""
    columns = [*fields, *params, *metrics]
    shown = {each.name for each in fields if each.name not in HIDDEN and (each.name not in ORIGIN or each.varies)}
    shown |= _first_shown(params) | _first_shown(metrics)
    rows = zip(*(_cells(column, found, urls) for column in columns))
    return {
        **TABLE,
        "columns": [_options(column, column.name in shown) for column in columns],
        "data": list(rows),
        # What compare.js needs.
        "headings": [replace_invalid(column.heading) for column in columns],
        "pages": list(urls),
        "alwaysDiffer": [index for index, column in enumerate(columns) if column.name in ALWAYS_DIFFER],
    }


def _first_shown(columns: Sequence[Column]) -> Set[str]:
    """Return the names of the columns to show at first. Those that vary come first."""
    return {each.name for each in sorted(columns, key=lambda each: not each.varies)[:MOST_SHOWN]}


def _options(column: Column, is_shown: bool) -> Dict[str, Any]:
    heading = escape(shorten_front(column.heading, LONGEST_HEADING))
    options = {
        "title": f'<span title="{escape(column.name)}">{heading}</span>',
        "visible": is_shown,
        "name": escape(column.heading),
    }
    if column.name in RENDER:
        options["render"] = RENDER[column.name]
    if column.is_numeric:
        options["className"] = "dt-type-numeric"
    return options


def _cells(column: Column, found: Sequence[RunSummary], urls: Sequence[str]) -> List[Any]:
    if column.name == "run_id":
        return [_run_cell(*each) for each in zip(itertools.count(), column.values, urls)]
    if column.name == "status":
        return [_status_cell(run) for run in found]
    if column.name == "duration":
        return [{"text": format_duration(seconds), "seconds": seconds} for seconds in column.values]
    if column.name == "commit":
        commits = [escape(value or "") for value in column.values]
        return [{"text": commit, "short": shorten_hash(commit)} for commit in commits]
    return [_cell(value) for value in column.values]


def _cell(value: Any) -> Any:
    if value is None or (is_finite(value) and abs(value) <= LARGEST_INTEGER):
        return rounded(value)
    return escape(short_text(value))


def _run_cell(number: int, run_id: str, url: str) -> Dict[str, str]:
    text = escape(run_id)
    box = f'<input type="checkbox" class="choose" value="{number}" aria-label="Compare {text}">'
    link = f'<a href="{escape(url)}" title="{text}">{escape(shorten(run_id, LONGEST_ID))}</a>'
    return {"text": text, "html": f"{box}{link}"}


def _status_cell(run: RunSummary) -> Dict[str, str]:
    style, text = status_style(run.state), escape(run.state)
    return {"text": text, "html": f'<span class="{style.colour}">{style.sign} {text}</span>'}

"""The columns of a report: the fields, parameters and metrics of many runs."""

import html
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, List, Optional, Sequence

from magnus_peewee_store.metrics import is_finite
from magnus_peewee_store.runs.search import FIELDS, METRICS, PARAMS, all_names, as_text, headings, rounded
from magnus_peewee_store.runs.summaries import RunSummary
from magnus_peewee_store.timeline.details import shorten
from magnus_peewee_store.timeline.elements import replace_invalid
from magnus_peewee_store.times import format_time

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
    columns = [Column(name, name.replace("_", " "), [_field(name, run) for run in found]) for name in FIELDS]
    return [each for each in columns if each.name == "run_id" or any(value is not None for value in each.values)]


def _field(name: str, run: RunSummary) -> Any:
    value = FIELDS[name](run)
    return None if value == "" else value


def value_columns(found: Sequence[RunSummary], prefix: str, limit: int) -> List[Column]:
    """Return a column for each parameter or metric. If there are more than `limit`, return those that most runs have.

    Args:
        found: The runs.
        prefix: `PARAMS` or `METRICS`.
        limit: The largest number of columns.
    """
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

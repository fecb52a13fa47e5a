"""Values as the terminal shows them: numbers to 6 significant digits, long texts shortened, statuses in colour."""

import json
from typing import Any

from magnus import defaults
from rich.text import Text

from magnus_peewee_store.cli.console import printable
from magnus_peewee_store.runs.labels import rounded

STYLES = {
    defaults.SUCCESS: "green",
    defaults.FAIL: "bold red",
    defaults.PROCESSING: "cyan",
    defaults.TRIGGERED: "cyan",
    defaults.CREATED: "dim",
}
LONGEST_VALUE = 300  # characters of a value on a terminal


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(printable(status), STYLES.get(status, "yellow"))


def format_value(value: Any, is_full: bool = True) -> str:
    """Return a value of a parameter or metric as text. A long text is shortened unless `is_full`."""
    text = printable(value if isinstance(value, str) else json.dumps(rounded(value), ensure_ascii=False))
    if is_full or len(text) <= LONGEST_VALUE:
        return text
    return f"{text[:LONGEST_VALUE]}... ({len(text):,} characters)"

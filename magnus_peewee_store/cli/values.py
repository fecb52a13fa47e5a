"""Values as the terminal shows them: numbers to 6 significant digits, long texts shortened, statuses in colour."""

import json
from typing import Any, Optional

from magnus import defaults
from rich.text import Text

from magnus_peewee_store.cli.console import printable
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.runs.labels import rounded
from magnus_peewee_store.times import format_duration

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


def run_status_text(status: str, silence: Optional[float], is_stale: Optional[bool], is_interrupted: bool) -> Text:
    """Return the status of a run in its colour. For an unfinished run, say whether a process still works on it."""
    if status in ENDED or is_stale is False:
        return status_text(status)
    if is_stale is None:
        return status_text(status).append(" (unknown)", "dim")
    ago = format_duration(silence).split(" ")[0]
    return Text(f"{'INTERRUPTED' if is_interrupted else 'STALE'} {ago}".rstrip(), "bold red")


def format_value(value: Any, is_full: bool = True) -> str:
    """Return the value of a parameter or metric as text. A long text is shortened unless `is_full`."""
    text = printable(value if isinstance(value, str) else json.dumps(rounded(value), ensure_ascii=False))
    if is_full or len(text) <= LONGEST_VALUE:
        return text
    return f"{text[:LONGEST_VALUE]}... ({len(text):,} characters)"

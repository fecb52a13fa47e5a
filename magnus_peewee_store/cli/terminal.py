"""Write to the terminal: text that is safe to print, values, statuses in colour, JSON, progress."""

import contextlib
import json
import math
import os
import shlex
import sys
from datetime import datetime
from io import TextIOWrapper
from itertools import islice
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import click
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.heartbeat import Liveness, state_of
from magnus_peewee_store.metrics import Series
from magnus_peewee_store.runs.search import as_text, rounded
from magnus_peewee_store.runs.summaries import RunSummary
from magnus_peewee_store.timeline.styles import status_style
from magnus_peewee_store.times import format_duration

UNLIMITED = 100_000  # columns
LONGEST_VALUE = 300  # characters of a value on a terminal
MOST_VALUES = 1000  # of a step or section on a terminal, where nobody reads more
# Of a tree: beside a child and its own children, before a child, and before the last child.
GUIDES = ("\u2502   ", "\u251c\u2500\u2500 ", "\u2514\u2500\u2500 ")
ASCII_GUIDES = ("|   ", "+-- ", "`-- ")
LIST_LENGTH = 10  # items that a message lists before it says "..."


class SafeConsole(Console):
    """A console that prints no control characters, and whose stderr may be closed."""

    def render(self, renderable: Any, options: Optional[ConsoleOptions] = None) -> Iterator[Segment]:
        """Render as rich does, with control characters escaped, wherever they come from."""
        for segment in super().render(renderable, options):
            is_safe = segment.is_control or segment.text.replace("\n", "").isprintable()
            yield segment if is_safe else Segment(_printable_lines(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Raise the error if the stream is stdout."""
        if not self.stderr:
            raise  # rich would exit with status 1; `CommandGroup` handles the error.
        _discard_stderr()


class TextLines:
    """Texts and tables, one below the other. `rich.console.Group` takes several times as long."""

    def __init__(self, lines: Iterable[Union[Table, Text]]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines. A long text is wrapped."""
        for line in self._lines:
            if isinstance(line, Text):
                yield from _draw_text(line, console, options.max_width)
            else:
                yield line


class TextTree:
    """A tree of texts. `rich.tree.Tree` takes several times as long, which matters for thousands of lines."""

    def __init__(self, label: Text) -> None:
        self._label = label
        self._children: List[TextTree] = []

    def add(self, label: Text) -> "TextTree":
        """Add a child at the end, and return it."""
        self._children.append(TextTree(label))
        return self._children[-1]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines, with guides that look like those of rich."""
        guides = ASCII_GUIDES if options.ascii_only else GUIDES
        yield from self._draw(console, options.max_width, guides, "", "")

    def _draw(self, console: Console, width: int, guides: Sequence[str], first: str, others: str) -> Iterator[Segment]:
        line, fork, end = guides
        yield from _draw_text(self._label, console, width, first, others)
        for child in self._children:
            is_last = child is self._children[-1]
            begin, below = (end, "    ") if is_last else (fork, line)
            yield from child._draw(console, width, guides, others + begin, others + below)


def _draw_text(text: Text, console: Console, width: int, first: str = "", others: str = "") -> Iterator[Segment]:
    """Yield the lines of a text, wrapped at a width. `first` stands before the first line, `others` before the rest."""
    plain = text.plain
    # A character takes at most two columns.
    is_short = "\n" not in plain and (len(first) + 2 * len(plain) <= width or len(first) + cell_len(plain) <= width)
    for line in [text] if is_short else text.wrap(console, max(1, width - len(first))):
        if console.color_system is None:
            yield Segment(f"{first}{line.plain}\n")
        else:
            if first:
                yield Segment(first)
            yield from render_text(line, console, "\n")
        first = others


def render_text(text: Text, console: Console, end: str = "") -> Iterator[Segment]:
    """Yield a text and its end, without wrapping. rich ignores the style of a text without spans, and takes longer."""
    if text.spans:
        yield from text.render(console, end)
    else:
        yield Segment(text.plain, console.get_style(text.style))
        yield Segment(end)


def prepare_streams() -> None:
    """Replace closed standard streams, and escape the characters that the encoding of an output stream lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            # It gets the number of the stream. Otherwise, another file would.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def make_console(stderr: bool = False) -> Console:
    """Return a Console that does not interpret markup.

    Its stream decides whether it draws for a person, in the width of the terminal. FORCE_COLOR, NO_COLOR and TERM
    decide about colours only.
    """
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return SafeConsole(
        stderr=stderr,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if is_terminal else UNLIMITED,
        force_terminal=is_terminal,
        color_system=Console(stderr=stderr).color_system,  # type: ignore[arg-type]
    )


def printable(text: Any) -> str:
    """Return a text with control characters escaped as Python escapes them."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in plain)


def say(message: str, err: bool = False, **style: Any) -> None:
    """Print a message with control characters escaped. Line breaks and tabs stay."""
    text = _printable_lines(message)
    if style:
        console = make_console(err)
        text = click.style(text, **style) if console.color_system and not console.no_color else text
    try:
        click.echo(text, err=err, color=True)
    except OSError:
        if not err:
            raise
        _discard_stderr()


def _discard_stderr() -> None:
    """Discard what is written to stderr, because nobody reads it. Python would otherwise exit with status 120."""
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _printable_lines(text: str) -> str:
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def shell_words(*words: str) -> str:
    """Return words of a command line that can be pasted into a shell, whatever characters they have."""
    return printable(" ".join(map(shlex.quote, words)))


def echo_json(value: Any, indent: int = 2) -> None:
    """Print a value as JSON: times in ISO 8601, NaN and infinity as texts, because strict parsers refuse them."""
    click.echo(json.dumps(_with_finite_numbers(value), indent=indent, default=datetime.isoformat))


def _with_finite_numbers(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)  # NaN, Infinity or -Infinity
    if isinstance(value, dict):
        return {name: _with_finite_numbers(each) for name, each in value.items()}
    return [*map(_with_finite_numbers, value)] if isinstance(value, (list, tuple)) else value


def count_of_runs(run_ids: Sequence[str]) -> str:
    """Return `1 run`, `2 runs` and so on."""
    return f"{len(run_ids):,} run{'' if len(run_ids) == 1 else 's'}"


def first_of(items: Sequence[str]) -> List[str]:
    """Return the first few items, and how many more there are."""
    more = len(items) - LIST_LENGTH
    return [*items[:LIST_LENGTH], f"... and {more:,} more"] if more > 0 else [*items]


def list_of(names: Sequence[str]) -> str:
    """Return the first few names, separated by commas."""
    return printable(", ".join(first_of(names)))


@contextlib.contextmanager
def progress_bar(unit: str, total: Optional[int]) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere. Yield the function that advances it."""
    console = make_console(stderr=True)
    if not console.is_terminal:
        yield lambda count: None
        return
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(unit, total=total)
        yield lambda count: progress.advance(task, count)


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(printable(status), status_style(status).terminal)


def run_status_text(status: str, seen: Union[Liveness, RunSummary]) -> Text:
    """Return the status of a run in its colour. For an unfinished run, say whether a process still works on it."""
    if status in ENDED or seen.is_stale is False:
        return status_text(status)
    if seen.is_stale is None:
        return status_text(status).append(" (unknown)", "dim")
    ago = f" {format_duration(seen.silence).split(' ')[0]} ago" if seen.silence is not None else ""
    return Text(state_of(status, seen.is_stale, seen.is_interrupted) + ago, "bold red")


def format_value(value: Any, is_full: bool = True) -> str:
    """Return the value of a parameter or metric as text. A long text is shortened unless `is_full`."""
    text = printable(value if isinstance(value, Series) else as_text(rounded(value)))
    if is_full or len(text) <= LONGEST_VALUE:
        return text
    return f"{text[:LONGEST_VALUE]}... ({len(text):,} characters)"


def first_values(values: Mapping[str, Any], is_full: bool) -> Tuple[Dict[str, Any], str]:
    """Return the first values, and a line about the rest. Return all values and an empty line if `is_full`."""
    more = len(values) - MOST_VALUES
    if is_full or more <= 0:
        return dict(values), ""
    line = f"... and {more:,} more. Pipe the output into a pager or a file to see all."
    return dict(islice(values.items(), MOST_VALUES)), line

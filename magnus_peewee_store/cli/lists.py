"""The command that lists runs, and its table of one line a run."""

import csv
import sys
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from magnus_peewee_store.cli.options import filter_options, json_option, on_database
from magnus_peewee_store.cli.terminal import (
    UNLIMITED,
    echo_json,
    format_value,
    list_of,
    make_console,
    printable,
    render_text,
    run_status_text,
    say,
)
from magnus_peewee_store.cli.trees import echo_all_unreadable
from magnus_peewee_store.logs import tags_text
from magnus_peewee_store.runs.search import (
    FIELDS,
    METRICS,
    PARAMS,
    Condition,
    Name,
    as_text,
    check_names,
    differs,
    full_names,
    headings,
    label_branches,
    make_filters,
    parse_number,
    search_page,
)
from magnus_peewee_store.runs.summaries import RunSummary
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import format_duration, format_time

# Widths, in characters.
WIDE = 110  # a terminal with room for whole times
GAP = 2  # between two columns
LONGEST_VALUE = 24  # of a value on a terminal
SHORTEST = {"RUN": 30, "TAG": 6, "FAILED STEP": 6}  # of these columns if there is little room
SHORTEST_RUN_ID = 8  # of the column RUN if the table is still too wide. The beginning of an id can name a run.
DEFAULT_LIMIT = 20  # runs

Cell = Union[str, Text]  # a Text only if it has a style, because a Text is slower to create and to print


class _Column:
    """A column, as wide as its widest cell."""

    def __init__(self, heading: str, cells: Sequence[Cell], is_number: bool = False) -> None:
        self.heading = heading
        self.cells = cells
        self.is_number = is_number
        self.width = max(cell_len(str(cell)) for cell in (heading, *cells))


class RunsTable:
    """A table that rich prints, one line a row. A `rich.table.Table` takes ten times as long."""

    def __init__(self, columns: Sequence[_Column]) -> None:
        self._columns = columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield each line as few segments, because rich takes long for each of them."""
        columns = [
            [_fit(cell, column.width, column.is_number) for cell in [Text(column.heading, "bold"), *column.cells]]
            for column in self._columns
        ]
        ends = [" " * GAP] * (len(columns) - 1) + ["\n"]
        for row in zip(*columns):
            plain = ""
            for cell, end in zip(row, ends):
                if isinstance(cell, str):
                    plain += cell + end
                    continue
                yield Segment(plain)
                yield from render_text(cell, console)
                plain = end
            yield Segment(plain)


def _fit(cell: Cell, width: int, is_number: bool) -> Cell:
    """Return a cell of exactly this width: shortened, or filled with spaces. A Text is changed in place."""
    text = str(cell)
    spare = width - cell_len(text)
    if spare >= 0:
        text = " " * spare + text if is_number else text + " " * spare
    elif isinstance(cell, Text):  # a heading or a failed step: such names begin alike and differ at the end
        text = "…" + set_cell_size(text[::-1], width - 1)[::-1]
    else:
        text = set_cell_size(text, width - 1) + "…"
    if isinstance(cell, Text):
        cell.plain = text
        return cell
    return text


def runs_table(
    summaries: Sequence[RunSummary], width: int = UNLIMITED, names: Sequence[Name] = (), has_status: bool = True
) -> Tuple[RunsTable, List[str]]:
    """Return the table of runs, and the `names` that it has no room for. Without names, it shows the steps and tags."""
    is_wide = width >= WIDE
    columns = [_Column("RUN", [printable(run.run_id) for run in summaries])]
    if has_status:
        columns += [
            _Column("STATUS", [run_status_text(run.status, run) for run in summaries]),
            _Column("STARTED", [format_time(run.started, short=not is_wide) for run in summaries]),
            _Column("TOOK", [format_duration(run.duration) for run in summaries], is_number=True),
        ]
    if has_status and not names:
        steps = [f"{run.steps_done}/{run.steps_known}" for run in summaries]
        columns.append(_Column("STEPS", steps, is_number=True))
        details = [
            _Column("TAG", [printable(tags_text(run.tag, run.tags)) for run in summaries]),
            _Column(
                "FAILED STEP",
                [Text(printable(run.failed_step), "red") if run.failed_step else "" for run in summaries],
            ),
        ]
        columns += [column for column in details if is_wide or any(map(bool, column.cells))]
    shortest = [SHORTEST.get(each.heading, UNLIMITED) for each in columns]
    room = width - sum(min(each.width, least) + GAP for each, least in zip(columns, shortest))
    for heading, name in zip(headings([each.text for each in names]), names):
        cells = [_value_cell(name, run, _format) for run in summaries]
        column = _Column(printable(heading), cells, _is_numeric(name, summaries))
        column.width = column.width if width == UNLIMITED else min(column.width, LONGEST_VALUE)
        room -= column.width + GAP
        if room < -GAP:
            break
        columns.append(column)
    widths = [each.width for each in columns]
    shrink(widths, shortest, width)
    shrink(widths, [SHORTEST_RUN_ID], width)
    for column, column_width in zip(columns, widths):
        column.width = column_width
        if column.heading == "FAILED STEP" and column_width < len(column.heading):
            column.heading = "FAILED"
    return RunsTable(columns), [name.text for name in names[len(columns) - len(shortest) :]]


def shrink(widths: List[int], shortest: Sequence[int], total: int, gap: int = GAP) -> None:
    """Narrow the columns with the most room, down to their `shortest` widths, until the table fits."""
    while sum(widths) + gap * (len(widths) - 1) > total:
        spare, number = max((widths[number] - least, number) for number, least in enumerate(shortest))
        if spare <= 0:
            return
        widths[number] -= 1


def _value_cell(name: Name, run: RunSummary, to_text: Callable[[str, Any], str]) -> str:
    """Return the values of a name as text. If they belong to several branches, each has a label."""
    if not name.labels:
        return ", ".join(to_text(name.text, value) for value in name.values(run) if value is not None)
    values = name.named_values(run)
    labels = {each: printable(label) for each, label in name.labels.items() if values.get(each) is not None}
    return ", ".join(f"{label}={to_text(name.text, values[each])}" for each, label in labels.items())


def _format(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    return format_duration(value) if name == "duration" else format_value(value)


def _is_numeric(name: Name, summaries: Sequence[RunSummary]) -> bool:
    return not name.labels and all(isinstance(value, (int, float)) for run in summaries for value in name.values(run))


@click.command("runs")
@filter_options
@click.option("--sort", metavar="NAME", help="Sort by this field, parameter or metric, smallest first.")
@click.option("--desc", is_flag=True, help="Sort largest first.")
@click.option("--params", "has_params", is_flag=True, help="Show the parameters.")
@click.option("--metrics", "has_metrics", is_flag=True, help="Show the metrics.")
@click.option(
    "--only-changed",
    is_flag=True,
    help="With --params, --metrics or --csv: leave out the parameters and metrics that all runs have alike.",
)
@click.option("--columns", metavar="NAME,...", help="Show these fields, parameters and metrics.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    help=f"How many runs. The default is {DEFAULT_LIMIT}, and all with --csv or --json.",
)
@click.option("--csv", "is_csv", is_flag=True, help="Print CSV, with all parameters and metrics.")
@click.option(
    "--no-formulas",
    is_flag=True,
    help="With --csv: put a ' before texts that a spreadsheet would take for formulas.",
)
@on_database()
@json_option
def list_runs(
    store: DBStore,
    where: List[Condition],
    sort: Optional[str],
    desc: bool,
    has_params: bool,
    has_metrics: bool,
    only_changed: bool,
    columns: Optional[str],
    limit: Optional[int],
    is_csv: bool,
    no_formulas: bool,
    is_json: bool,
) -> None:
    """List runs, newest first. Options filter and sort them.

    STEPS shows how many steps are done, and how many have begun. The last part of a metric's name is enough: rmse finds
    train.rmse.

    \b
    Example:
      magnus db runs --status FAIL --since 2d
      magnus db runs --where 'rmse<0.5' --where 'lr=0.1' --sort rmse --params --metrics
    """
    if is_csv and is_json:
        raise click.UsageError("Give either --csv or --json.")
    if desc and not sort:
        raise click.UsageError("--desc needs --sort NAME.")
    if limit is None and not (is_csv or is_json):
        limit = DEFAULT_LIMIT
    # The id is always the first column.
    texts = [text.strip() for text in (columns or "").split(",")]
    names = [Name(text) for text in dict.fromkeys(texts) if text not in ("", "run_id")]
    with_values = is_json or is_csv or has_params or has_metrics or any(name.needs_values for name in names)
    found, total = search_page(store, make_filters(where), sort, limit, desc, with_values)
    check_names(store, [name for name in names if not name.is_field and not any(map(name.values, found))])
    for name in names:
        label_branches(store, name, found)
    if is_json:
        echo_json([_to_json(run) for run in found])
    elif is_csv and columns:
        _write_csv(found, [Name("run_id"), *names], no_formulas)
    elif is_csv:
        values = [name for name in full_names(found, PARAMS, METRICS) if not only_changed or differs(name, found)]
        _write_csv(found, [*map(Name, FIELDS), *values], no_formulas)
    elif not found:
        say("No runs match." if where else "There are no runs yet.", err=True)
    else:
        prefixes = [prefix for prefix, is_wanted in ((PARAMS, has_params), (METRICS, has_metrics)) if is_wanted]
        shown = names or full_names(found, *prefixes) or ([Name(sort)] if sort and sort not in FIELDS else [])
        changed = [name for name in shown if differs(name, found)]
        _print_table(found, changed if only_changed else shown, [] if names or only_changed else changed, not columns)
    if total > len(found):
        say(f"{len(found):,} of {total:,} runs; --limit {total} shows all", err=True)
    echo_all_unreadable(found)


def _to_json(run: RunSummary) -> Dict[str, Any]:
    fields = asdict(replace(run, series={}))
    del fields["series"]
    return {**fields, "state": run.state}


def _print_table(found: Sequence[RunSummary], names: Sequence[Name], changed: Sequence[Name], has_status: bool) -> None:
    """Print a table. If there is no room for all names, and some are `changed`, print only these."""
    console = make_console()
    table, left_out = runs_table(found, console.width, names, has_status)
    if left_out and changed and len(changed) < len(names):
        table, left_out = runs_table(found, console.width, changed, has_status)
        equal = [name.text for name in names if name not in changed]
        say(f"Left out, because it is the same in all runs: {list_of(equal)}", err=True)
    console.print(table)
    if left_out:
        say(f"No room for {list_of(left_out)}. Choose with --columns, or use --csv.", err=True)


def _write_csv(found: Sequence[RunSummary], names: Sequence[Name], no_formulas: bool) -> None:
    """Print runs as CSV. Several values of a name are separated by a comma and a space."""
    writer = csv.writer(_Lines())
    writer.writerow([_csv_cell(name.text, no_formulas) for name in names])
    for run in found:
        texts = (_value_cell(name, run, lambda _, value: as_text(value)) for name in names)
        writer.writerow([_csv_cell(text, no_formulas) for text in texts])


class _Lines:
    """Print lines of CSV. Before Python 3.11.9, csv quotes a carriage return only if its lines end in one."""

    def write(self, line: str) -> None:
        sys.stdout.write(line[: -len("\r\n")] + "\n")


def _csv_cell(text: str, no_formulas: bool) -> str:
    if no_formulas and text.startswith(("=", "+", "-", "@", "\t", "\r")) and parse_number(text) is None:
        text = f"'{text}"
    return printable(text) if sys.stdout.isatty() else text

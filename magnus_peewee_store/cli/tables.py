"""The table of runs, one line a run."""

from datetime import datetime
from typing import Any, List, Sequence, Tuple, Union

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from magnus_peewee_store.cli.console import UNLIMITED, printable
from magnus_peewee_store.cli.values import format_value, run_status_text
from magnus_peewee_store.runs.conditions import Name
from magnus_peewee_store.runs.labels import headings
from magnus_peewee_store.runs.listing import RunProgress
from magnus_peewee_store.times import format_duration, format_time

# Widths, in characters.
WIDE = 110  # a terminal with room for whole times
GAP = 2  # between two columns
LONGEST_VALUE = 24  # of a value on a terminal
SHORTEST = {"RUN": 30, "TAG": 6, "FAILED": 6}  # of these columns if there is little room
SHORTEST_RUN_ID = 18  # of the column RUN if the table is still too wide. The beginning of an id can name a run.

Cell = Union[str, Text]  # a Text only if it has a style, because a Text is slower to create and to print


class _Column:
    """A column, as wide as its widest cell."""

    def __init__(self, heading: str, cells: Sequence[Cell], is_number: bool = False) -> None:
        self.heading = heading
        self.cells = cells
        self.is_number = is_number
        self.width = max([cell_len(heading), *map(_width_of, cells)])


class RunsTable:
    """A table that rich prints, one line a row. A `rich.table.Table` takes ten times as long."""

    def __init__(self, columns: Sequence[_Column], widths: Sequence[int]) -> None:
        self._columns = columns
        self._widths = widths

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield each line as few segments, because rich takes long for each of them."""
        columns = [
            [_fit(cell, width, column.is_number) for cell in [Text(column.heading, "bold"), *column.cells]]
            for column, width in zip(self._columns, self._widths)
        ]
        ends = [" " * GAP] * (len(columns) - 1) + ["\n"]
        for row in zip(*columns):
            plain = ""
            for cell, end in zip(row, ends):
                if isinstance(cell, str):
                    plain += cell + end
                    continue
                yield Segment(plain)
                if cell.spans:
                    yield from cell.render(console)
                else:  # Text.render ignores the style of a Text without spans.
                    yield Segment(cell.plain, console.get_style(cell.style))
                plain = end
            yield Segment(plain)


def _width_of(cell: Cell) -> int:
    return cell_len(cell) if isinstance(cell, str) else cell.cell_len


def _fit(cell: Cell, width: int, is_number: bool) -> Cell:
    """Return a cell of exactly this width: cut with an ellipsis, or filled with spaces. A Text is changed in place."""
    if isinstance(cell, Text):
        cell.truncate(width, overflow="ellipsis")
        cell.align("right" if is_number else "left", width)
        return cell
    spare = width - cell_len(cell)
    if spare < 0:
        return set_cell_size(cell, width - 1) + "…"
    return " " * spare + cell if is_number else cell + " " * spare


def runs_table(
    summaries: Sequence[RunProgress], width: int = UNLIMITED, names: Sequence[Name] = (), has_status: bool = True
) -> Tuple[RunsTable, List[str]]:
    """Return the table of runs, and the names that it has no room for.

    Args:
        summaries: The runs.
        width: The width of the console, in characters.
        names: The fields, parameters and metrics to show instead of the steps and tags.
        has_status: Whether to show the status and the times, too.
    """
    is_wide = width >= WIDE
    columns = [_Column("RUN", [printable(run.run_id) for run in summaries])]
    if has_status:
        columns += [
            _Column("STATUS", [_status(run) for run in summaries]),
            _Column("STARTED", [format_time(run.started, short=not is_wide) for run in summaries]),
            _Column("TOOK", [format_duration(run.duration) for run in summaries], is_number=True),
        ]
    if not names:
        steps = [f"{run.steps_done}/{run.steps_known}" for run in summaries]
        columns.append(_Column("STEPS", steps, is_number=True))
        details = [
            _Column("TAG", [printable(", ".join(filter(None, [run.tag, *run.tags]))) for run in summaries]),
            _Column(
                "FAILED STEP" if is_wide else "FAILED",
                [Text(printable(run.failed_step), "red") if run.failed_step else "" for run in summaries],
            ),
        ]
        columns += [column for column in details if is_wide or any(map(bool, column.cells))]
    wanted = [
        _Column(printable(heading), [_cell(name, run) for run in summaries], _is_numeric(name, summaries))
        for heading, name in zip(headings([each.text for each in names]), names)
    ]
    longest = UNLIMITED if width == UNLIMITED else LONGEST_VALUE
    room = width - sum(min(each.width, SHORTEST.get(each.heading, UNLIMITED)) + GAP for each in columns)
    while wanted and sum(min(each.width, longest) + GAP for each in wanted) > room + GAP:
        wanted.pop()
    widths = [each.width for each in columns] + [min(each.width, longest) for each in wanted]
    _shrink(widths, [SHORTEST.get(each.heading, UNLIMITED) for each in columns], width)
    _shrink(widths, [SHORTEST_RUN_ID], width)
    return RunsTable([*columns, *wanted], widths), [name.text for name in names[len(wanted) :]]


def _status(run: RunProgress) -> Text:
    return run_status_text(run.status, run.silence, run.is_stale, run.is_interrupted)


def _shrink(widths: List[int], shortest: Sequence[int], total: int) -> None:
    """Narrow the columns with the most room, down to their `shortest` widths, until the table fits."""
    while sum(widths) + GAP * (len(widths) - 1) > total:
        spare, number = max((widths[number] - least, number) for number, least in enumerate(shortest))
        if spare <= 0:
            return
        widths[number] -= 1


def _cell(name: Name, run: RunProgress) -> str:
    return ", ".join(_format(name.text, value) for value in name.values(run) if value is not None)


def _format(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    return format_duration(value) if name == "duration" else format_value(value)


def _is_numeric(name: Name, summaries: Sequence[RunProgress]) -> bool:
    return all(isinstance(value, (int, float)) for run in summaries for value in name.values(run))

"""Lay out a run: the rows of its timeline, the marks in each row, and the scale of the time axis."""

import json
from collections import Counter
from datetime import datetime
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from magnus.datastore import RunLog, StepAttempt, StepLog

from magnus_peewee_store.fragments import TERMINAL_STEP_TYPES, own_name
from magnus_peewee_store.heartbeat import state_of
from magnus_peewee_store.logs import RunFacts, attempts_of, steps_of, time_span
from magnus_peewee_store.timeline.details import Span, attempt_details, format_elapsed, format_recorded, span_details
from magnus_peewee_store.timeline.styles import SKIPPED, StatusStyle, status_style
from magnus_peewee_store.times import format_duration, parse_time

OPEN_END = 88.0  # percent of the width: where the marks of running steps end. The rest is for the durations.
NARROWEST = 0.4  # percent of the width: the narrowest mark that can be seen
_TICK_INTERVALS = [
    *(base * 10.0**power for power in range(-4, 1) for base in (1, 2, 5)),
    *(10.0, 15.0, 30.0),
    *(60.0 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3600.0 * hours for hours in (1, 2, 3, 6, 12)),
    *(86400.0 * base * 10.0**power for power in range(8) for base in (1, 2, 5)),
]


class Mark(NamedTuple):
    """A bar in the chart and a row in the table, for an attempt or for a whole run, branch or step."""

    kind: str
    """One of these:

    - `bar`: an attempt.
    - `summary`: the time span of a run, a branch, or a step with branches.
    - `open`: a running step whose attempt is not recorded yet.
    - empty: the mark is only in the table.
    """
    style: StatusStyle
    start: Optional[datetime]
    """When it starts; None means the start of the axis."""
    end: Optional[datetime]
    """When it ends, if that is recorded."""
    details: Dict[str, str]


class ChartRow(NamedTuple):
    """A row of the chart."""

    kind: str
    """`run`, `branch`, `composite` (a step with branches) or `step`."""
    depth: int
    label: str
    name: str
    """The internal name, or the id of the run."""
    style: StatusStyle
    span: Optional[Span]
    """The first and the last recorded time of it and of everything in it."""
    marks: List[Mark]
    attempt_count: int = 0

    @property
    def duration_or_status(self) -> str:
        """The text next to the marks: the duration, or the status if it is running or its duration is unknown."""
        start, end = self.span or (None, None)
        return self.style.word if self.style.is_running or start == end else format_elapsed(start, end)


class Scale:
    """Convert times to percent of the width of the chart.

    Args:
        span: The first and the last recorded time.
        is_open: Whether a step is running. Its mark is longer than the recorded times.
    """

    def __init__(self, span: Optional[Span], is_open: bool) -> None:
        self._start = span[0] if span else None
        recorded = (span[1] - span[0]).total_seconds() if span else 0.0
        self._seconds = max(recorded, 0.001) * (1.05 if is_open else 1) * 100 / OPEN_END  # of the whole width

    def extent(self, mark: Mark) -> Tuple[float, float]:
        """Return where a mark starts and ends, in percent of the width."""
        left = min(self._percent(mark.start), OPEN_END - NARROWEST)
        right = max(self._percent(mark.end or mark.start), left + NARROWEST)
        return left, OPEN_END if mark.style.is_running else right

    def ticks(self) -> Iterator[Tuple[float, str]]:
        """Yield the position and the label of each tick of the axis: about five round durations."""
        if self._start is None:
            return
        interval = next(interval for interval in _TICK_INTERVALS if interval * 6 >= self._seconds)
        for number in range(int(self._seconds / interval) + 1):
            yield 100 * number * interval / self._seconds, format_duration(number * interval)

    def _percent(self, time: Optional[datetime]) -> float:
        return 100 * (time - self._start).total_seconds() / self._seconds if time and self._start else 0.0


def lay_out(run: RunFacts) -> Tuple[List[ChartRow], Scale]:
    """Return the rows of a run, and the scale of its time axis. The first row is the run itself."""
    run_log = run.run_log
    context = _Context(run, _changed_parameters(run_log))
    style = context.style_of(run_log.status)
    span = time_span(attempts_of(steps_of(run_log)), run.utc_offset)
    first = ChartRow("run", 0, "whole run", run_log.run_id, style, span, [_summary_mark(style, span, None)])
    rows = [first, *_step_rows(run_log.steps, 0, None, context)]
    return rows, Scale(span, is_open=any(row.style.is_running for row in rows))


def count_steps(rows: List[ChartRow]) -> List[Tuple[str, str]]:
    """Return a colour and a text for each count of steps: in total, and by status."""
    counts = Counter(row.style for row in rows if row.kind in ("step", "composite"))
    total = sum(counts.values())
    text = f"{total} step{'' if total == 1 else 's'}" if total else "No step has started yet."
    return [("text", text), *((style.colour, f"{style.sign} {n} {style.word}") for style, n in counts.most_common())]


class _Context(NamedTuple):
    """What must be known of a run to lay out its steps."""

    run: RunFacts
    changed: Mapping[int, Mapping[str, Any]]
    """The parameters to show for each attempt, by the `id` of the attempt."""

    def style_of(self, status: str) -> StatusStyle:
        """Return the style of the run, or of a branch or step in it. In a run that died, none is running."""
        style, liveness = status_style(status), self.run.liveness
        return status_style(state_of(status, liveness.is_stale, liveness.is_interrupted)) if style.is_running else style


def _changed_parameters(run_log: RunLog) -> Dict[int, Dict[str, Any]]:
    """Return the parameters that each attempt started with, as far as they differ from those of the attempt before it.

    The first attempt is compared with the final parameters of the run.
    """
    changed, before = {}, run_log.parameters
    for attempt in attempts_of(steps_of(run_log)):
        changed[id(attempt)] = {
            name: value
            for name, value in attempt.parameters.items()
            # Compared as JSON if they differ, because NaN differs from itself.
            if name not in before or (value != before[name] and json.dumps(value) != json.dumps(before[name]))
        }
        before = attempt.parameters or before
    return changed


def _step_rows(
    steps: Mapping[str, StepLog], depth: int, previous_end: Optional[datetime], context: _Context
) -> Iterator[ChartRow]:
    """Yield the row of each step, then those of its branches. Nodes that only end a graph are left out.

    Args:
        steps: The steps of a run or branch.
        depth: How deep the steps are nested.
        previous_end: The last recorded time of the steps before these.
        context: The run.
    """
    for step in steps.values():
        if step.step_type in TERMINAL_STEP_TYPES:
            continue
        span = time_span(_attempts_in(step), context.run.utc_offset)
        yield _step_row(step, depth, span, previous_end, context)
        for name, branch in step.branches.items():
            style = context.style_of(branch.status)
            branch_span = time_span(attempts_of(steps_of(branch)), context.run.utc_offset)
            marks = [_summary_mark(style, branch_span, previous_end)]
            label = own_name(name, step.internal_name)
            yield ChartRow("branch", depth + 1, label, name, style, branch_span, marks)
            yield from _step_rows(branch.steps, depth + 2, previous_end, context)
        if span:
            previous_end = max(previous_end or span[1], span[1])


def _attempts_in(step: StepLog) -> Iterator[StepAttempt]:
    yield from step.attempts
    for branch in step.branches.values():
        yield from attempts_of(steps_of(branch))


def _step_row(
    step: StepLog, depth: int, span: Optional[Span], previous_end: Optional[datetime], context: _Context
) -> ChartRow:
    style = SKIPPED if step.mock and not step.attempts else context.style_of(step.status)
    marks = list(_attempt_marks(step, previous_end, context))
    # magnus records an attempt when it ends, so a running step usually has no running attempt.
    if not marks or (style.is_running and not any(mark.style.is_running for mark in marks)):
        if step.branches:
            marks.append(_summary_mark(style, span, previous_end))
        else:
            marks.append(_untimed_mark("open", style, previous_end))
    kind = "composite" if step.branches else "step"
    return ChartRow(kind, depth, step.name, step.internal_name, style, span, marks, len(step.attempts))


def _attempt_marks(step: StepLog, previous_end: Optional[datetime], context: _Context) -> Iterator[Mark]:
    for number, attempt in enumerate(step.attempts, start=1):
        start, end = (parse_time(text, context.run.utc_offset) for text in (attempt.start_time, attempt.end_time))
        style, changed = context.style_of(attempt.status), context.changed.get(id(attempt), {})
        details = attempt_details(
            step, number, start, end, changed, context.run.step_metrics.get(step.internal_name, {})
        )
        yield Mark("bar", style, start or end or previous_end, end, details)


def _summary_mark(style: StatusStyle, span: Optional[Span], previous_end: Optional[datetime]) -> Mark:
    if span:
        return Mark("summary", style, *span, span_details(span, style))
    return _untimed_mark("summary", style, previous_end)


def _untimed_mark(kind: str, style: StatusStyle, previous_end: Optional[datetime]) -> Mark:
    """Return a mark without recorded times. It is drawn only while it is running."""
    details = {"Start": f"after {format_recorded(previous_end)}"} if style.is_running and previous_end else {}
    return Mark(kind if style.is_running else "", style, previous_end, None, details)

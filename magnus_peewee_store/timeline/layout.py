"""Lay out a run: the rows of its timeline, the marks with their details, and the scale of the time axis."""

import itertools
import json
import reprlib
from collections import Counter
from datetime import datetime
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from magnus.datastore import RunLog, StepAttempt, StepLog

from magnus_peewee_store.fragments import TERMINAL_STEP_TYPES, own_name
from magnus_peewee_store.heartbeat import state_of
from magnus_peewee_store.logs import RunFacts, attempts_of, steps_of, tags_text, time_span
from magnus_peewee_store.timeline.styles import SKIPPED, StatusStyle, status_style
from magnus_peewee_store.times import format_duration, format_utc_offset, parse_time

Span = Tuple[datetime, datetime]
OPEN_END = 88.0  # percent of the width: where the marks of running steps end. The rest is for the durations.
NARROWEST = 0.4  # percent of the width: the narrowest mark that can be seen
_TICK_INTERVALS = [
    *(base * 10.0**power for power in range(-4, 1) for base in (1, 2, 5)),
    *(10.0, 15.0, 30.0),
    *(60.0 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3600.0 * hours for hours in (1, 2, 3, 6, 12)),
    *(86400.0 * base * 10.0**power for power in range(8) for base in (1, 2, 5)),
]
NOT_RECORDED = "not recorded"

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def as_facts(run: Union[RunFacts, RunLog]) -> RunFacts:
    """Return the facts about a run. If only its run log is given, the others are unknown."""
    return run if isinstance(run, RunFacts) else RunFacts(run, complete_log=run)


def run_details(run: RunFacts, row: "ChartRow") -> Dict[str, str]:
    """Return the known details of a run, by name, given its row."""
    run_log, liveness, style = run.run_log, run.liveness, row.style
    details = {"Status": f"{style.sign} {style.word}"}
    if liveness.is_stale:
        details["Status"] += f", last seen {format_duration(liveness.silence)} ago"
    if row.span:
        details["Started"] = f"{_format_recorded(row.span[0])}, {format_utc_offset(run.utc_offset)}"
        details["Duration"] = _format_span(row.span, style)
    if style.is_running and run.started:
        # As in a list of runs, because the recorded times do not include the steps that are running.
        details["Duration"] = f"{format_duration(run.duration)} {'until last seen' if liveness.is_stale else 'so far'}"
    details["Tags" if run.tags else "Tag"] = tags_text(run_log.tag, run.tags)
    details["Re-run of"] = run_log.original_run_id
    return {name: text for name, text in details.items() if text}


def _format_recorded(time: datetime) -> str:
    """Format a time of `parse_time` as magnus recorded it: local time without a zone, to the millisecond."""
    return time.replace(tzinfo=None).isoformat(" ", "milliseconds")


def _format_elapsed(start: Optional[datetime], end: Optional[datetime]) -> str:
    """Format the time from start to end. If it is unknown, say why."""
    if not start or not end:
        return NOT_RECORDED
    if start > end:
        return "unknown: the recorded end is before the start"
    return format_duration((end - start).total_seconds())


def shorten(text: str, limit: int) -> str:
    """Shorten a text in the middle, since names often differ at the end."""
    return text if len(text) <= limit else f"{text[: limit * 2 // 3]}…{text[-(limit // 3) :]}"


def _format_span(span: Span, style: StatusStyle) -> str:
    return _format_elapsed(*span) + (" so far" if style.is_running else "")


def _format_values(values: Mapping[str, Any]) -> str:
    """Format the first metrics or parameters in at most 300 characters."""
    texts = [f"{name} = {_REPR.repr(value)}" for name, value in itertools.islice(values.items(), 20)]
    if len(values) > len(texts):
        texts.append("…")
    return shorten(", ".join(texts), 300)


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
        return self.style.word if self.style.is_running or start == end else _format_elapsed(start, end)


class Scale:
    """Convert times to percent of the width of the chart. The mark of a running step is longer than `span`."""

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
    run_log, layout = run.run_log, _Layout(run)
    style = layout.style_of(run_log.status)
    span = time_span(attempts_of(steps_of(run_log)), run.utc_offset)
    first = ChartRow("run", 0, "whole run", run_log.run_id, style, span, [_span_mark("summary", style, span, None)])
    rows = [first, *layout.step_rows(run_log.steps, 0, None)]
    return rows, Scale(span, is_open=any(row.style.is_running for row in rows))


def count_steps(rows: List[ChartRow]) -> List[Tuple[str, str]]:
    """Return a colour and a text for each count of steps: in total, and by status."""
    counts = Counter(row.style for row in rows if row.kind in ("step", "composite"))
    total = sum(counts.values())
    text = f"{total} step{'' if total == 1 else 's'}" if total else "No step has started yet."
    return [("text", text), *((style.colour, f"{style.sign} {n} {style.word}") for style, n in counts.most_common())]


class _Layout:
    """Lays out the steps of a run, in their order. `previous_end` is the last recorded time of the steps before."""

    def __init__(self, run: RunFacts) -> None:
        self._run = run
        self._parameters = run.run_log.parameters  # those that the next attempt is compared with

    def style_of(self, status: str) -> StatusStyle:
        """Return the style of the run, or of a branch or step in it. In a run that died, none is running."""
        style, liveness = status_style(status), self._run.liveness
        return status_style(state_of(status, liveness.is_stale, liveness.is_interrupted)) if style.is_running else style

    def step_rows(
        self, steps: Mapping[str, StepLog], depth: int, previous_end: Optional[datetime]
    ) -> Iterator[ChartRow]:
        """Yield the row of each step, then those of its branches. Nodes that only end a graph are left out."""
        for step in steps.values():
            if step.step_type in TERMINAL_STEP_TYPES:
                continue
            inner_steps = (each for branch in step.branches.values() for each in steps_of(branch))
            span = time_span(attempts_of([step, *inner_steps]), self._run.utc_offset)
            yield self._step_row(step, depth, span, previous_end)
            for name, branch in step.branches.items():
                style = self.style_of(branch.status)
                branch_span = time_span(attempts_of(steps_of(branch)), self._run.utc_offset)
                marks = [_span_mark("summary", style, branch_span, previous_end)]
                label = own_name(name, step.internal_name)
                yield ChartRow("branch", depth + 1, label, name, style, branch_span, marks)
                yield from self.step_rows(branch.steps, depth + 2, previous_end)
            if span:
                previous_end = max(previous_end or span[1], span[1])

    def _step_row(self, step: StepLog, depth: int, span: Optional[Span], previous_end: Optional[datetime]) -> ChartRow:
        style = SKIPPED if step.mock and not step.attempts else self.style_of(step.status)
        marks = list(self._attempt_marks(step, previous_end))
        # magnus records an attempt when it ends, so a running step usually has no running attempt.
        if not marks or (style.is_running and not any(mark.style.is_running for mark in marks)):
            if step.branches:
                marks.append(_span_mark("summary", style, span, previous_end))
            else:
                marks.append(_span_mark("open", style, None, previous_end))
        kind = "composite" if step.branches else "step"
        return ChartRow(kind, depth, step.name, step.internal_name, style, span, marks, len(step.attempts))

    def _attempt_marks(self, step: StepLog, previous_end: Optional[datetime]) -> Iterator[Mark]:
        count = len(step.attempts)
        for number, attempt in enumerate(step.attempts, start=1):
            start, end = (parse_time(text, self._run.utc_offset) for text in (attempt.start_time, attempt.end_time))
            style = self.style_of(attempt.status)
            metrics = self._run.step_metrics.get(step.internal_name, {}) if number == count else {}
            details = {
                "Attempt": f"{attempt.attempt_number or number} of {count}",
                "Start": _format_recorded(start) if start else attempt.start_time or NOT_RECORDED,
                "End": _format_recorded(end) if end else attempt.end_time or NOT_RECORDED,
                "Duration": _format_elapsed(start, end),
                "Error" if style.colour == "fail" else "Message": shorten(attempt.message, 1000),
                "Metrics": _format_values(metrics),
                "Parameters": _format_values(self._changed_parameters(attempt)),
            }
            yield Mark("bar", style, start or end or previous_end, end, details)

    def _changed_parameters(self, attempt: StepAttempt) -> Dict[str, Any]:
        """Return the parameters that an attempt started with, as far as those of the attempt before it differ.

        The first attempt is compared with the final parameters of the run.
        """
        before, self._parameters = self._parameters, attempt.parameters or self._parameters
        return {
            name: value
            for name, value in attempt.parameters.items()
            # Compared as JSON if they differ, because NaN differs from itself.
            if name not in before or (value != before[name] and json.dumps(value) != json.dumps(before[name]))
        }


def _span_mark(kind: str, style: StatusStyle, span: Optional[Span], previous_end: Optional[datetime]) -> Mark:
    """Return a mark that is no attempt. Without recorded times, it is drawn only while it is running."""
    if span:
        end = "" if style.is_running else _format_recorded(span[1])
        details = {"Start": _format_recorded(span[0]), "End": end, "Duration": _format_span(span, style)}
        return Mark(kind, style, *span, details)
    details = {"Start": f"after {_format_recorded(previous_end)}"} if style.is_running and previous_end else {}
    return Mark(kind if style.is_running else "", style, previous_end, None, details)

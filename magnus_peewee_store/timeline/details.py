"""The texts of a timeline: the details of a run and of its attempts."""

import itertools
import reprlib
from datetime import datetime
from typing import Any, Dict, Mapping, Optional, Tuple, Union

from magnus.datastore import RunLog, StepLog

from magnus_peewee_store.logs import RunFacts, code_versions, tags_text
from magnus_peewee_store.timeline.styles import StatusStyle, status_style
from magnus_peewee_store.times import format_duration, format_utc_offset

Span = Tuple[datetime, datetime]
NOT_RECORDED = "not recorded"

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def as_facts(run: Union[RunFacts, RunLog]) -> RunFacts:
    """Return the facts about a run. If only its run log is given, the others are unknown."""
    return run if isinstance(run, RunFacts) else RunFacts(run, complete_log=run)


def run_details(run: RunFacts, style: StatusStyle, span: Optional[Span]) -> Dict[str, str]:
    """Return the known details of a run, by name."""
    run_log, liveness = run.run_log, run.liveness
    details = {"Status": f"{style.sign} {style.word}"}
    if liveness.is_stale:
        details["Status"] += f", last seen {format_duration(liveness.silence)} ago"
    if span:
        details["Started"] = f"{format_recorded(span[0])}, {format_utc_offset(run.utc_offset)}"
        details["Duration"] = _format_span(span, style)
    if style.is_running and run.started:
        # As in a list of runs, because the recorded times do not include the steps that are running.
        details["Duration"] = f"{format_duration(run.duration)} {'until last seen' if liveness.is_stale else 'so far'}"
    details["Tags" if run.tags else "Tag"] = tags_text(run_log.tag, run.tags)
    details["Re-run of"] = run_log.original_run_id
    return {name: text for name, text in details.items() if text}


def origin_details(run: RunFacts) -> Dict[str, str]:
    """Return who ran what, by name, as far as it is known."""
    details = {
        "User": run.origin.user,
        "Host": run.origin.host,
        "Project": run.project,
        "Pipeline": run.pipeline,
        "Code": ", ".join(code_versions(run.complete_log)),
    }
    return {name: text for name, text in details.items() if text}


def attempt_details(
    step: StepLog,
    number: int,
    start: Optional[datetime],
    end: Optional[datetime],
    parameters: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Dict[str, str]:
    """Return the details of an attempt, by name. Unknown details are empty.

    Args:
        step: The step.
        number: The number of the attempt. The first is 1.
        start: Its parsed start.
        end: Its parsed end.
        parameters: The parameters that changed before it.
        metrics: The metrics of the step, as a flat dictionary.
    """
    attempt = step.attempts[number - 1]
    is_failed = status_style(attempt.status).colour == "fail"
    is_last = number == len(step.attempts)
    return {
        "Attempt": f"{attempt.attempt_number or number} of {len(step.attempts)}",
        "Start": format_recorded(start) if start else attempt.start_time or NOT_RECORDED,
        "End": format_recorded(end) if end else attempt.end_time or NOT_RECORDED,
        "Duration": format_elapsed(start, end),
        "Error" if is_failed else "Message": shorten(attempt.message, 1000),
        "Metrics": _format_values(metrics) if is_last else "",
        "Parameters": _format_values(parameters),
    }


def span_details(span: Span, style: StatusStyle) -> Dict[str, str]:
    """Return the times of a run, a branch or a step with branches."""
    end = "" if style.is_running else format_recorded(span[1])
    return {"Start": format_recorded(span[0]), "End": end, "Duration": _format_span(span, style)}


def format_recorded(time: datetime) -> str:
    """Format a time of `parse_time` as magnus recorded it: local time without a zone, to the millisecond."""
    return time.replace(tzinfo=None).isoformat(" ", "milliseconds")


def format_elapsed(start: Optional[datetime], end: Optional[datetime]) -> str:
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
    return format_elapsed(*span) + (" so far" if style.is_running else "")


def _format_values(values: Mapping[str, Any]) -> str:
    """Format the first metrics or parameters in at most 300 characters."""
    texts = [f"{name} = {_REPR.repr(value)}" for name, value in itertools.islice(values.items(), 20)]
    if len(values) > len(texts):
        texts.append("…")
    return shorten(", ".join(texts), 300)

"""Summarize runs."""

import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Dict, Iterator, List, Optional, Sequence, TypeVar

from magnus import defaults

from magnus_peewee_store import fragments
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.runs.fields import RunFields, read_fields, read_headers
from magnus_peewee_store.runs.reading import flatten
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import ISO_LENGTHS, parse_time

BATCH_SIZE = 200  # runs to read in one query

T = TypeVar("T")


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs shows about one run. None means unknown."""

    run_id: str
    status: str
    tag: Optional[str]
    started: Optional[datetime]
    """In UTC."""
    duration: Optional[float]
    """In seconds; until now, if the run has not ended."""
    steps_done: int
    steps_known: int
    """The steps that have begun."""
    failed_step: Optional[str]
    """The first failed step that contains no other failed step."""
    unreadable: List[str]
    """The type and key of each row that cannot be read."""
    pipeline: Optional[str] = None
    """The file that defines the pipeline."""
    params: Dict[str, Any] = field(default_factory=dict)
    """The parameters as the run left them. A name within a dictionary is a dot path."""
    metrics: Dict[str, Any] = field(default_factory=dict)
    """The metrics by the step's internal name, a dot and the metric's name, which may be a dot path, too."""
    reused: Dict[str, str] = field(default_factory=dict)
    """By the internal name of each step that a re-run did not repeat, the id of the run that it ran in.

    Its metrics are among the metrics.
    """


def summarize(store: DBStore, run_ids: Sequence[str]) -> List[RunSummary]:
    """Return a summary of each run, in the order of the ids.

    Args:
        store: The store.
        run_ids: The whole ids.
    """
    return [_summarize_one(fields) for batch in batches(run_ids, BATCH_SIZE) for fields in read_fields(store, batch)]


def summarize_headers(store: DBStore, run_ids: Sequence[str]) -> List[RunSummary]:
    """Return summaries like `summarize`, of what the runs' own rows hold only."""
    return [_summarize_one(fields) for batch in batches(run_ids, BATCH_SIZE) for fields in read_headers(store, batch)]


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in slices of `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _summarize_one(run: RunFields) -> RunSummary:
    statuses = [step[0] for step in run.steps.values()]
    return RunSummary(
        run_id=run.run_id,
        status=run.status,
        tag=run.tag or None,
        started=run.started,
        duration=_duration_of(run),
        steps_done=statuses.count(defaults.SUCCESS),
        steps_known=len(run.steps) + sum(row.attribute_type in fragments.STEP for row in run.unreadable),
        failed_step=_failed_step(run) if defaults.FAIL in statuses else None,
        unreadable=[f"{row.attribute_type} {row.attribute_key}" for row in run.unreadable],
        pipeline=run.pipeline or None,
        params=run.params,
        metrics=_metrics_of(run),
        reused=run.reused,
    )


def _failed_step(run: RunFields) -> str:
    failed = [name for name, step in run.steps.items() if step[0] == defaults.FAIL]
    return next(name for name in failed if not any(other.startswith(f"{name}.") for other in failed))


def _metrics_of(run: RunFields) -> Dict[str, Any]:
    metrics: Dict[str, Any] = {}
    for step_name, step_metrics in run.metrics_by_step().items():
        for name, value in step_metrics.items():
            if isinstance(value, dict) and value:
                metrics.update(flatten(value, f"{step_name}.{name}."))
            else:
                # Runs have the same names: each takes memory once.
                metrics[sys.intern(f"{step_name}.{name}")] = value
    return metrics


def _duration_of(run: RunFields) -> Optional[float]:
    """Return what `reading.duration_of` returns."""
    if run.status not in ENDED and run.started:
        return max(0.0, (datetime.now(timezone.utc) - run.started).total_seconds())
    times = [time for step in run.steps.values() for time in step[4:] if time]
    if {*map(len, times)} <= {*ISO_LENGTHS}:
        times = [min(times), max(times)] if times else []  # as texts, since parsing takes longer
    parsed = [time for time in map(parse_time, times) if time]
    return (max(parsed) - min(parsed)).total_seconds() if parsed else None

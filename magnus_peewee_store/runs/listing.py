"""Summarize runs."""

import sys
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar

from magnus import defaults

from magnus_peewee_store import fragments
from magnus_peewee_store.db.queries import Types
from magnus_peewee_store.db.table import Row
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.runs.annotations import Note, notes_of, tags_of
from magnus_peewee_store.runs.fields import RunFields, read_fields, read_headers
from magnus_peewee_store.runs.liveness import beats_of, liveness_of
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
    """In seconds; if the run has not ended, until now, or until it was last seen if it is stale."""
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
    project: Optional[str] = None
    """The git remote of its code; without one, the name of the folder that it was started in."""
    user: Optional[str] = None
    """Who started it."""
    host: Optional[str] = None
    """The machine that it was started on."""
    tags: Tuple[str, ...] = ()
    """The tags that were added to it, besides its own."""
    notes: Tuple[Note, ...] = ()
    """Its notes, oldest first."""
    last_seen: Optional[datetime] = None
    """When a process last worked on it, in UTC by the database's clock, if it has not ended."""
    silence: Optional[float] = None
    """How many seconds ago that was."""
    is_stale: Optional[bool] = None
    """Whether an unfinished run has missed three heartbeats, or was interrupted; None if it has no heartbeats."""
    is_interrupted: bool = False
    """Whether the process that ran an unfinished run has exited."""


def summarize(store: DBStore, run_ids: Sequence[str]) -> List[RunSummary]:
    """Return a summary of each run, in the order of the ids.

    Args:
        store: The store.
        run_ids: The whole ids.
    """
    return [run for batch in batches(run_ids, BATCH_SIZE) for run in _summarize_batch(store, read_fields(store, batch))]


def summarize_headers(store: DBStore, run_ids: Sequence[str]) -> List[RunSummary]:
    """Return summaries like `summarize`, of what the runs' own rows hold only."""
    return [
        run for batch in batches(run_ids, BATCH_SIZE) for run in _summarize_batch(store, read_headers(store, batch))
    ]


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in slices of `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _summarize_batch(store: DBStore, batch: Sequence[RunFields]) -> List[RunSummary]:
    """Return summaries of runs, with their tags and notes, and whether somebody works on those that have not ended."""
    summaries = [_summarize_one(fields) for fields in batch]
    annotations = _read_rows(store, [run.run_id for run in summaries], fragments.ANNOTATIONS)
    # An ended run may have many heartbeats, from all of its pods, which do not matter any more.
    beats = _read_rows(store, [run.run_id for run in summaries if run.status not in ENDED], fragments.HEARTBEAT)
    if not annotations and not beats:
        return summaries
    now = store.table.now()
    return [_add_rows(run, annotations.get(run.run_id, []), beats.get(run.run_id, []), now) for run in summaries]


def _read_rows(store: DBStore, run_ids: Sequence[str], types: Types) -> Dict[str, List[Row]]:
    rows_of: Dict[str, List[Row]] = {}
    for row in store.table.read_runs(run_ids, types) if run_ids else []:
        rows_of.setdefault(row.run_id, []).append(row.fragment)
    return rows_of


def _add_rows(run: RunSummary, annotations: Sequence[Row], beats: Sequence[Row], now: datetime) -> RunSummary:
    liveness = liveness_of(beats_of(beats), now)
    duration = run.duration
    if liveness.is_stale and liveness.last_seen and run.started:
        duration = max(0.0, (liveness.last_seen - run.started).total_seconds())
    tags = tuple(tag for tag in tags_of(annotations) if tag != run.tag)
    return replace(run, tags=tags, notes=tuple(notes_of(annotations)), duration=duration, **liveness._asdict())


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
        project=run.project,
        user=run.origin.user,
        host=run.origin.host,
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
    times = [time for step in run.steps.values() for time in step[4:6] if time]
    if {*map(len, times)} <= {*ISO_LENGTHS}:
        times = [min(times), max(times)] if times else []  # as texts, since parsing takes longer
    parsed = [time for time in map(parse_time, times) if time]
    return (max(parsed) - min(parsed)).total_seconds() if parsed else None

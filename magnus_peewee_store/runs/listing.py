"""Summarize runs."""

import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar

from magnus import defaults

from magnus_peewee_store import fragments
from magnus_peewee_store.db.rows import Row
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.runs.annotations import Note
from magnus_peewee_store.runs.fields import END, START, STATUS, RunFields, read_fields, read_headers, read_progress
from magnus_peewee_store.runs.liveness import Liveness, beats_of, liveness_of
from magnus_peewee_store.runs.reading import flatten
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import ISO_LENGTHS, parse_time

BATCH_SIZE = 50  # runs to read in one query; larger batches cost more garbage collection than the queries they save

T = TypeVar("T")


@dataclass(frozen=True)
class RunProgress:
    """What a list without parameters and metrics shows about one run. None means unknown."""

    run_id: str
    status: str
    tag: Optional[str]
    started: Optional[datetime]
    """In UTC."""
    duration: Optional[float]
    """In seconds. An unfinished run is measured until now, a stale run until it was last seen."""
    steps_done: int
    steps_known: int
    """The steps that have begun."""
    failed_step: Optional[str]
    """The first failed step that contains no other failed step."""
    unreadable: List[str]
    """The type and key of each row that cannot be read."""
    pipeline: Optional[str] = None
    """The file that defines the pipeline."""
    user: Optional[str] = None
    """The user who started it."""
    host: Optional[str] = None
    """The machine that it was started on."""
    tags: Tuple[str, ...] = ()
    """The tags that were added to it, besides its own."""
    notes: Tuple[Note, ...] = ()
    """Its notes, oldest first."""
    last_seen: Optional[datetime] = None
    """When a process last worked on an unfinished run, in UTC by the database's clock."""
    silence: Optional[float] = None
    """How many seconds ago that was."""
    is_stale: Optional[bool] = None
    """Whether an unfinished run has missed three heartbeats, or was interrupted; None if it has no heartbeats."""
    is_interrupted: bool = False
    """Whether the process that ran an unfinished run has exited."""


@dataclass(frozen=True)
class RunSummary(RunProgress):
    """What a list of runs shows about one run. None means unknown."""

    params: Dict[str, Any] = field(default_factory=dict)
    """The final parameters. A name within a dictionary is a dot path."""
    metrics: Dict[str, Any] = field(default_factory=dict)
    """The metrics. A name is the step's internal name, a dot, and the metric's name, which may be a dot path."""
    reused: Dict[str, str] = field(default_factory=dict)
    """The id of the run that each reused step ran in, by the step's internal name.

    A re-run does not repeat the steps that succeeded before. The metrics of these steps are among the metrics.
    """
    project: Optional[str] = None
    """The git remote of its code; without one, the name of the folder that it was started in."""


def summarize(store: DBStore, run_ids: Sequence[str]) -> List[RunSummary]:
    """Return a summary of each run, in the order of the ids.

    Args:
        run_ids: The whole ids.
    """
    return [
        RunSummary(
            **_progress_of(run, beats, now),
            params=run.params,
            metrics=_metrics_of(run),
            reused=run.reused,
            project=run.project,
        )
        for run, beats, now in _read(store, run_ids, read_fields)
    ]


def summarize_progress(store: DBStore, run_ids: Sequence[str]) -> List[RunProgress]:
    """Return what `summarize` returns, without the fields that only `RunSummary` has: they take longest to read."""
    return [RunProgress(**_progress_of(*each)) for each in _read(store, run_ids, read_progress)]


def summarize_headers(store: DBStore, run_ids: Sequence[str]) -> List[RunProgress]:
    """Return what `summarize_progress` returns, as if the runs had no steps."""
    return [RunProgress(**_progress_of(*each)) for each in _read(store, run_ids, read_headers)]


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in slices of `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _read(
    store: DBStore, run_ids: Sequence[str], read: Callable[[DBStore, Sequence[str]], List[RunFields]]
) -> Iterator[Tuple[RunFields, Sequence[Row], Optional[datetime]]]:
    """Yield the fields of runs, the heartbeats of those that have not ended, and the time by the database's clock."""
    for batch in batches(run_ids, BATCH_SIZE):
        fields = read(store, batch)
        # An ended run may have many heartbeats, one for each pod. They do not matter any more.
        unfinished = [run.run_id for run in fields if run.status not in ENDED]
        beats: Dict[str, List[Row]] = {}
        for row in store.table.read_runs(unfinished, fragments.HEARTBEAT) if unfinished else []:
            beats.setdefault(row.run_id, []).append(row.fragment)
        now = store.table.now() if beats else None
        yield from ((run, beats.get(run.run_id, ()), now) for run in fields)


def _progress_of(run: RunFields, beats: Sequence[Row], now: Optional[datetime]) -> Dict[str, Any]:
    """Return the fields of `RunProgress`."""
    statuses = [step[STATUS] for step in run.steps.values()]
    liveness = liveness_of(beats_of(beats), now) if beats and now else Liveness()
    duration = _duration_of(run)
    if liveness.is_stale and liveness.last_seen and run.started:
        duration = max(0.0, (liveness.last_seen - run.started).total_seconds())
    return {
        "run_id": run.run_id,
        "status": run.status,
        "tag": run.tag or None,
        "started": run.started,
        "duration": duration,
        "steps_done": statuses.count(defaults.SUCCESS),
        "steps_known": len(run.steps) + sum(row.attribute_type in fragments.STEP for row in run.unreadable),
        "failed_step": _failed_step(run) if defaults.FAIL in statuses else None,
        "unreadable": [row.name for row in run.unreadable],
        "pipeline": run.pipeline or None,
        "user": run.origin.user,
        "host": run.origin.host,
        "tags": run.tags,
        "notes": run.notes,
        **liveness._asdict(),
    }


def _failed_step(run: RunFields) -> str:
    failed = [name for name, step in run.steps.items() if step[STATUS] == defaults.FAIL]
    return next(name for name in failed if not any(other.startswith(f"{name}.") for other in failed))


def _metrics_of(run: RunFields) -> Dict[str, Any]:
    metrics: Dict[str, Any] = {}
    for step_name, step_metrics in run.metrics_by_step().items():
        for name, value in step_metrics.items():
            if isinstance(value, dict) and value:
                metrics.update(flatten(value, f"{step_name}.{name}."))
            else:
                # Many runs have the same names. Interned, each name takes memory once.
                metrics[sys.intern(f"{step_name}.{name}")] = value
    return metrics


def _duration_of(run: RunFields) -> Optional[float]:
    """Return what `reading.duration_of` returns."""
    if run.status not in ENDED and run.started:
        return max(0.0, (datetime.now(timezone.utc) - run.started).total_seconds())
    steps = run.steps.values()
    times = [step[START] for step in steps if step[START]] + [step[END] for step in steps if step[END]]
    if {*map(len, times)} <= {*ISO_LENGTHS}:
        times = [min(times), max(times)] if times else []  # Compared as texts, because parsing takes longer.
    parsed = [time for time in map(parse_time, times) if time]
    return (max(parsed) - min(parsed)).total_seconds() if parsed else None

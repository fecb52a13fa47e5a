"""Summarize runs."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar

from magnus import defaults

from magnus_peewee_store import fragments
from magnus_peewee_store.db.queries import Types
from magnus_peewee_store.db.table import StoredRow
from magnus_peewee_store.runs.annotations import Note
from magnus_peewee_store.runs.liveness import beats_of, liveness_of
from magnus_peewee_store.runs.reading import ENDED, Run, flatten, steps_of, to_run
from magnus_peewee_store.store import DBStore

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
    return [_summarize_one(run) for batch in batches(run_ids, BATCH_SIZE) for run in _read_batch(store, batch)]


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in slices of `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _read_batch(store: DBStore, run_ids: Sequence[str]) -> List[Run]:
    types = fragments.RUN_LOG + fragments.PARAMETER + fragments.STEP + fragments.ANNOTATIONS
    rows_of = _read_rows(store, run_ids, types)
    found = [_to_run(run_id, rows) for run_id, rows in rows_of.items()]
    unfinished = [run.run_log.run_id for run in found if run.run_log.status not in ENDED]
    # An ended run may have many heartbeats, from all of its pods, which do not matter any more.
    beats = _read_rows(store, unfinished, fragments.HEARTBEAT) if unfinished else {}
    if not any(beats.values()):
        return found
    now = store.table.now()
    return [
        run._replace(liveness=liveness_of(beats_of(row.fragment for row in beats[run.run_log.run_id]), now))
        if run.run_log.run_id in beats
        else run
        for run in found
    ]


def _read_rows(store: DBStore, run_ids: Sequence[str], types: Types) -> Dict[str, List[StoredRow]]:
    rows_of: Dict[str, List[StoredRow]] = {run_id: [] for run_id in run_ids}
    for row in store.table.read_runs(run_ids, types):
        rows_of[row.run_id].append(row)
    return rows_of


def _to_run(run_id: str, rows: Sequence[StoredRow]) -> Run:
    header = next((row for row in rows if row.attribute_type in fragments.RUN_LOG), rows[0] if rows else None)
    return to_run(run_id, [row.fragment for row in rows], header and header.created_at)


def _summarize_one(run: Run) -> RunSummary:
    steps = list(steps_of(run.run_log))
    unreadable_steps = [row for row in run.unreadable if row.attribute_type in fragments.STEP]
    failed = [step.internal_name for step in steps if step.status == defaults.FAIL]
    innermost = [name for name in failed if not any(other.startswith(f"{name}.") for other in failed)]
    return RunSummary(
        run_id=run.run_log.run_id,
        status=run.run_log.status,
        tag=run.run_log.tag or None,
        started=run.started,
        duration=run.duration,
        steps_done=sum(step.status == defaults.SUCCESS for step in steps),
        steps_known=len(steps) + len(unreadable_steps),
        failed_step=innermost[0] if innermost else None,
        unreadable=[f"{row.attribute_type} {row.attribute_key}" for row in run.unreadable],
        pipeline=run.pipeline,
        params=flatten(run.run_log.parameters),
        metrics=flatten({step.internal_name: step.user_defined_metrics for step in steps if step.user_defined_metrics}),
        project=run.project,
        user=run.origin.user,
        host=run.origin.host,
        tags=run.tags,
        notes=run.notes,
        **run.liveness._asdict(),
    )

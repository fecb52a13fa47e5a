"""Summarize runs."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Dict, Iterator, List, Optional, Sequence, TypeVar

from magnus import defaults

from magnus_peewee_store import fragments
from magnus_peewee_store.db.table import StoredRow
from magnus_peewee_store.runs.reading import attempts_of, duration_of, flatten, steps_of, to_run
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


def summarize(store: DBStore, run_ids: Sequence[str]) -> List[RunSummary]:
    """Return a summary of each run, in the order of the ids.

    Args:
        store: The store.
        run_ids: The whole ids.
    """
    summaries = []
    for batch in batches(run_ids, BATCH_SIZE):
        rows_of: Dict[str, List[StoredRow]] = {run_id: [] for run_id in batch}
        for row in store.table.read_runs(batch, fragments.RUN_LOG + fragments.PARAMETER + fragments.STEP):
            rows_of[row.run_id].append(row)
        summaries += [_summarize_one(run_id, rows) for run_id, rows in rows_of.items()]
    return summaries


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in slices of `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _summarize_one(run_id: str, rows: Sequence[StoredRow]) -> RunSummary:
    header = next((row for row in rows if row.attribute_type in fragments.RUN_LOG), rows[0] if rows else None)
    run = to_run(run_id, [row.fragment for row in rows], header and header.created_at)
    steps = list(steps_of(run.run_log))
    unreadable_steps = [row for row in run.unreadable if row.attribute_type in fragments.STEP]
    failed = [step.internal_name for step in steps if step.status == defaults.FAIL]
    innermost = [name for name in failed if not any(other.startswith(f"{name}.") for other in failed)]
    return RunSummary(
        run_id=run_id,
        status=run.run_log.status,
        tag=run.run_log.tag or None,
        started=run.started,
        duration=duration_of(run.run_log.status, run.started, attempts_of(steps)),
        steps_done=sum(step.status == defaults.SUCCESS for step in steps),
        steps_known=len(steps) + len(unreadable_steps),
        failed_step=innermost[0] if innermost else None,
        unreadable=[f"{row.attribute_type} {row.attribute_key}" for row in run.unreadable],
        pipeline=run.run_log.run_config.get("pipeline_file") or None,
        params=flatten(run.run_log.parameters),
        metrics=flatten({step.internal_name: step.user_defined_metrics for step in steps if step.user_defined_metrics}),
    )

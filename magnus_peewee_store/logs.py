"""Questions about a run log: its steps, times and results, and what a re-run reuses."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, TypeVar, Union

from magnus.datastore import BranchLog, CodeIdentity, RunLog, StepAttempt, StepLog

from magnus_peewee_store import fragments
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.heartbeat import Liveness
from magnus_peewee_store.times import parse_time


def steps_of(log: Union[BranchLog, RunLog]) -> Iterator[StepLog]:
    """Yield all steps, each before the steps in its branches. Nodes that only end a graph are left out."""
    for step in log.steps.values():
        if step.step_type not in fragments.TERMINAL_STEP_TYPES:
            yield step
        for branch in step.branches.values():
            yield from steps_of(branch)


def attempts_of(steps: Iterable[StepLog]) -> Iterator[StepAttempt]:
    """Yield all attempts of steps."""
    for step in steps:
        yield from step.attempts


def time_span(attempts: Iterable[StepAttempt], utc_offset: Optional[int] = None) -> Optional[Tuple[datetime, datetime]]:
    """Return the earliest and the latest time of attempts, given their UTC offset; None if they have no times."""
    texts = [text for attempt in attempts for text in (attempt.start_time, attempt.end_time)]
    times = [time for time in (parse_time(text, utc_offset) for text in texts) if time]
    return (min(times), max(times)) if times else None


def duration_of(status: str, started: Optional[datetime], attempts: Iterable[StepAttempt]) -> Optional[float]:
    """Return how many seconds a run, branch, step or attempt took.

    Args:
        status: Its status.
        started: When it started, if that is known.
        attempts: Its attempts.

    Returns:
        The time from the start of the first attempt to the end of the last. If it has not ended and its start is known,
        the time until now. None if nothing is known.
    """
    if status not in ENDED and started:
        return max(0.0, (datetime.now(timezone.utc) - started).total_seconds())
    span = time_span(attempts)
    return (span[1] - span[0]).total_seconds() if span else None


def results_of(run_log: RunLog) -> List[str]:
    """Return the names of the parameters that steps set or changed, as far as the log shows it.

    With each attempt, magnus logs the parameters that the attempt started with. So the run started with those of the
    first attempt.
    """
    attempts = [attempt for step in run_log.steps.values() for attempt in step.attempts]
    if not any(attempt.parameters for attempt in attempts):
        return []
    first = attempts[0].parameters
    # Compared as JSON, because NaN differs from itself.
    return [
        name
        for name, value in run_log.parameters.items()
        if name not in first or json.dumps(value) != json.dumps(first[name])
    ]


def code_versions(run_log: RunLog) -> List[str]:
    """Return the versions of the code that the steps ran, such as `git 1b9f...`; usually one."""
    codes = [code for step in steps_of(run_log) for code in step.code_identities]
    return list(dict.fromkeys(code_version(code) for code in codes if code.code_identifier))


def code_version(code: CodeIdentity) -> str:
    """Return the kind and identifier of a version of code, and whether the code was changed since."""
    changed = "" if code.code_identifier_dependable else " (changed)"
    return f"{code.code_identifier_type} {code.code_identifier}{changed}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> Dict[str, Any]:
    """Return a flat dictionary. Names within inner dictionaries become dot paths. Empty inner dictionaries stay."""
    flat: Dict[str, Any] = {}
    for name, value in values.items():
        if value and isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@dataclass(frozen=True)
class RunFacts:
    """A run log, and what else must be known to draw it."""

    run_log: RunLog
    """The run log with its parameters, steps and branches. Its status is UNKNOWN if its own row cannot be read."""
    started: Optional[datetime] = None
    """When it started, in UTC; None if that cannot be read."""
    liveness: Liveness = field(default_factory=Liveness)
    """When it was last seen, if it has not ended."""
    utc_offset: Optional[int] = None
    """The offset from UTC of the times of its attempts, in seconds; None if it is unknown."""

    @property
    def duration(self) -> Optional[float]:
        """In seconds. An unfinished run is measured until now, a stale run until it was last seen."""
        last_seen = self.liveness.last_seen
        if self.run_log.status not in ENDED and self.started and self.liveness.is_stale and last_seen:
            return max(0.0, (last_seen - self.started).total_seconds())
        return duration_of(self.run_log.status, self.started, attempts_of(steps_of(self.run_log)))


Log = TypeVar("Log", BranchLog, RunLog)


def complete(run_log: RunLog, read: Callable[[str], Optional[RunLog]]) -> Tuple[RunLog, Dict[str, str]]:
    """Complete a run log with the metrics, data and branches of its reused steps.

    The steps in reused branches have no attempts, because they did not run in this run.

    Args:
        read: Returns the log of an original run; None if the run is unknown.

    Returns:
        A copy of the run log, or the run log itself if it has no reused steps. Also the id of the run that each reused
        step ran in, by the step's internal name.
    """
    chain = [run_log]
    while has_reused_steps(chain[-1]) and chain[-1].original_run_id not in [each.run_id for each in chain]:
        original = read(str(chain[-1].original_run_id))
        if original is None:
            break
        chain.append(original)
    # The last run of the chain is the oldest. From there on, each run completes the next.
    completed, reused = chain.pop(), {}
    if has_reused_steps(completed):
        names = [step.internal_name for step in _steps_of(completed).values() if step.mock]
        reused = dict.fromkeys(names, str(completed.original_run_id))
    while chain:
        steps = _steps_of(completed)
        run_ids = {name: reused.get(name, completed.run_id) for name in steps}
        completed, reused = _fill(chain.pop(), steps), {}
        for step in _steps_of(completed).values():
            if step.mock:
                reused[step.internal_name] = run_ids.get(step.internal_name, str(completed.original_run_id))
    return completed, reused


def has_reused_steps(run_log: RunLog) -> bool:
    """Return True if a run is a re-run with steps that it did not repeat."""
    return bool(run_log.original_run_id) and any(step.mock for step in _steps_of(run_log).values())


def _fill(log: Log, originals: Dict[str, StepLog]) -> Log:
    """Return a copy of a log in which the reused steps have what the original steps logged."""
    steps = {}
    for name, step in log.steps.items():
        original = originals.get(step.internal_name)
        if step.mock and original:
            found = {
                "user_defined_metrics": original.user_defined_metrics,
                "data_catalog": original.data_catalog,
                "branches": {key: _mark_reused(branch) for key, branch in original.branches.items()},
            }
            steps[name] = step.model_copy(update=found)
        else:
            branches = {key: _fill(branch, originals) for key, branch in step.branches.items()}
            steps[name] = step.model_copy(update={"branches": branches})
    return log.model_copy(update={"steps": steps})


def _mark_reused(branch: BranchLog) -> BranchLog:
    steps = {}
    for name, step in branch.steps.items():
        branches = {key: _mark_reused(inner) for key, inner in step.branches.items()}
        is_mock = step.step_type not in fragments.TERMINAL_STEP_TYPES
        steps[name] = step.model_copy(update={"mock": is_mock, "attempts": [], "branches": branches})
    return branch.model_copy(update={"steps": steps})


def _steps_of(log: Union[BranchLog, RunLog]) -> Dict[str, StepLog]:
    steps = {}
    for step in log.steps.values():
        steps[step.internal_name] = step
        for branch in step.branches.values():
            steps.update(_steps_of(branch))
    return steps

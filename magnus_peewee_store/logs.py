"""Questions about a run log: its steps, times and results, and what a re-run reuses."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
    Union,
)

from magnus.datastore import BranchLog, CodeIdentity, RunLog, StepAttempt, StepLog
from magnus.defaults import FAIL, SUCCESS

from magnus_peewee_store import fragments
from magnus_peewee_store.heartbeat import Liveness
from magnus_peewee_store.metrics import CurvePoint, Series, curve_of, flatten_metrics
from magnus_peewee_store.origin import Origin, repository_name
from magnus_peewee_store.times import ISO_LENGTHS, parse_time


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
    return span_of([text for attempt in attempts for text in (attempt.start_time, attempt.end_time)], utc_offset)


def span_of(texts: Sequence[str], utc_offset: Optional[int] = None) -> Optional[Tuple[datetime, datetime]]:
    """Return the earliest and the latest of times that magnus wrote, given their UTC offset; None if there are none."""
    texts = [text for text in texts if text]
    if texts and {*map(len, texts)} <= {*ISO_LENGTHS}:
        # Compared as texts, because parsing takes longer.
        first, last = parse_time(min(texts), utc_offset), parse_time(max(texts), utc_offset)
        if first and last:
            return min(first, last), max(first, last)
    times = [time for time in (parse_time(text, utc_offset) for text in texts) if time]
    return (min(times), max(times)) if times else None


def elapsed(attempts: Iterable[StepAttempt], utc_offset: Optional[int] = None) -> Optional[float]:
    """Return how many seconds passed between the first and the last time of attempts, given their UTC offset."""
    return seconds_of(time_span(attempts, utc_offset))


def seconds_of(span: Optional[Tuple[datetime, datetime]]) -> Optional[float]:
    """Return the length of a time span in seconds; None without a span."""
    return (span[1] - span[0]).total_seconds() if span else None


def duration_of(
    status: str,
    started: Optional[datetime],
    is_stale: Optional[bool],
    last_beat: Optional[datetime],
    span: Optional[Tuple[datetime, datetime]],
) -> Optional[float]:
    """Return how many seconds a run took; None if nothing is known.

    That is the length of the span of its attempts. Of an unfinished run, it is the time until now. Of a run that died,
    also if it was marked as failed, it is at least the time until its last heartbeat.
    """
    length = seconds_of(span)
    if status == SUCCESS or not started:
        return length
    if status != FAIL and not is_stale:
        return max(0.0, (datetime.now(timezone.utc) - started).total_seconds())
    return max(length or 0.0, (last_beat - started).total_seconds()) if last_beat else length


def project_of(remotes: Iterable[Optional[str]], origin: Origin) -> Optional[str]:
    """Return the first git remote; without one, the name of the folder that the run was started in."""
    remote = next(filter(None, remotes), None)
    return repository_name(remote) if remote else origin.folder


def tags_text(tag: Optional[str], tags: Iterable[str]) -> str:
    """Return the tags of a run as text: its own tag, then those that were added to it."""
    return ", ".join(filter(None, [tag, *tags]))


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


@dataclass(frozen=True)
class RunFacts:
    """A run log, and what else must be known to draw it."""

    run_log: RunLog
    """The run log with its parameters, steps and branches. Its status is UNKNOWN if its own row cannot be read."""
    started: Optional[datetime] = None
    """When it started, in UTC; None if that cannot be read."""
    liveness: Liveness = field(default_factory=Liveness)
    """When it was last seen, if it has not ended."""
    last_beat: Optional[datetime] = None
    """When a process last worked on it, also if it has ended."""
    utc_offset: Optional[int] = None
    """The offset from UTC of the times of its attempts, in seconds; None if it is unknown."""
    origin: Origin = field(default_factory=Origin)
    """Who started it, and where."""
    tags: Tuple[str, ...] = ()
    """The tags that were added to it. Its own tag is in the run log."""
    notes: Tuple[Any, ...] = ()
    """Its notes (`runs.annotate.Note`), oldest first."""
    complete_log: RunLog = field(default_factory=lambda: RunLog(run_id="", status=fragments.UNKNOWN))
    """The run log in which the reused steps of a re-run have the metrics, data and branches of the original run."""

    @cached_property
    def step_metrics(self) -> Dict[str, Dict[str, Any]]:
        """The metrics of each step as a flat dictionary, by the step's internal name; also of reused steps."""
        steps = steps_of(self.complete_log)
        return {step.internal_name: flatten_metrics(step.user_defined_metrics) for step in steps}

    @cached_property
    def metrics(self) -> Dict[str, Any]:
        """The metrics of all steps. A name begins with the internal name of the step."""
        metrics_of = self.step_metrics.items()
        return {f"{step}.{name}": value for step, metrics in metrics_of for name, value in metrics.items()}

    @cached_property
    def curves(self) -> Dict[str, List[CurvePoint]]:
        """The points of each metric that is a series with at least two finite numbers, as `curve_of` returns them."""
        series = {name: metric.points for name, metric in self.metrics.items() if isinstance(metric, Series)}
        curves = {name: curve_of(points) for name, points in series.items()}
        return {name: points for name, points in curves.items() if points}

    @property
    def pipeline(self) -> Optional[str]:
        """The file that defines the pipeline."""
        return self.run_log.run_config.get("pipeline_file") or None

    @property
    def project(self) -> Optional[str]:
        """The git remote of its code; without one, the name of the folder that it was started in."""
        codes = (code for step in steps_of(self.run_log) for code in step.code_identities)
        return project_of((code.code_identifier_url for code in codes), self.origin)

    @property
    def is_resumable(self) -> bool:
        """Whether a step has succeeded. Without its data, magnus' file-system catalog refuses a re-run."""
        return any(step.status == SUCCESS for step in self.run_log.steps.values())

    @property
    def resume_label(self) -> str:
        """What introduces the command that resumes it."""
        return "Resume it with" if self.is_resumable else "Start it again with"

    @property
    def duration(self) -> Optional[float]:
        """In seconds. An unfinished run is measured until now, a run that died until it was last seen."""
        span = time_span(attempts_of(steps_of(self.run_log)), self.utc_offset)
        return duration_of(self.run_log.status, self.started, self.liveness.is_stale, self.last_beat, span)


class Steps(NamedTuple):
    """The steps of a run, and which of them it reused."""

    run_id: str
    original_run_id: Optional[str]
    by_name: Mapping[str, Any]
    """The steps by internal name, in any form."""
    reused: Sequence[str]
    """The names of the steps that a re-run did not repeat."""


def trace(run: Steps, read: Callable[[str], Optional[Steps]]) -> Dict[str, Tuple[str, Any]]:
    """Find where the steps of a run ran, also through several re-runs.

    `read` returns the steps of an original run; None if the run is unknown. The result has, by internal name, each step
    and the id of the run that it ran in. The steps in the branches of a reused step are included. A reused step that
    the original run does not have is returned as it is.
    """
    chain = [run]
    while chain[-1].reused and chain[-1].original_run_id not in [each.run_id for each in chain]:
        original = read(str(chain[-1].original_run_id))
        if original is None:
            break
        chain.append(original)
    found: Dict[str, Tuple[str, Any]] = {}
    for each in reversed(chain):  # The last run of the chain is the oldest.
        known, reused = found, {*each.reused}
        found = {
            name: (str(each.original_run_id) if name in reused else each.run_id, step)
            for name, step in each.by_name.items()
        }
        if reused:
            found.update((name, place) for name, place in known.items() if _is_within(name, reused))
    return found


def _is_within(name: str, reused: Set[str]) -> bool:
    return name in reused or fragments.longest_prefix(name, reused) is not None


Log = TypeVar("Log", BranchLog, RunLog)


def complete(run_log: RunLog, read: Callable[[str], Optional[RunLog]]) -> Tuple[RunLog, Dict[str, str]]:
    """Return a run log with the metrics, data and branches of its reused steps, and the runs that these steps ran in.

    The steps in reused branches have no attempts, because they did not run in this run. `read` returns the log of an
    original run; None if the run is unknown. The run log is a copy, unless it has no reused steps. The second result is
    the id of the run that each reused step ran in, by the step's internal name.
    """
    own = _list_steps(run_log)
    if not own.reused:
        return run_log, {}

    def read_steps(run_id: str) -> Optional[Steps]:
        original = read(run_id)
        return _list_steps(original) if original else None

    found = trace(own, read_steps)
    completed = _fill(run_log, found)
    mocks = [step.internal_name for step in steps_of(completed) if step.mock]
    return completed, {name: found[name][0] for name in mocks if name in found}


def _list_steps(run_log: RunLog) -> Steps:
    steps = {step.internal_name: step for step in steps_of(run_log)}
    reused = [name for name, step in steps.items() if step.mock] if run_log.original_run_id else []
    return Steps(run_log.run_id, run_log.original_run_id, steps, reused)


def _fill(log: Log, found: Mapping[str, Tuple[str, StepLog]], is_reused: bool = False) -> Log:
    """Return a copy of a log in which the reused steps have what the original steps logged."""
    steps = {}
    for name, step in log.steps.items():
        original = found[step.internal_name][1] if step.internal_name in found else step
        is_original = is_reused or original is not step
        branches = {key: _fill(branch, found, is_original) for key, branch in original.branches.items()}
        changes = {
            "user_defined_metrics": original.user_defined_metrics,
            "data_catalog": original.data_catalog,
            "branches": branches,
        }
        if is_reused:
            changes.update(mock=step.step_type not in fragments.TERMINAL_STEP_TYPES, attempts=[])
        steps[name] = step.model_copy(update=changes)
    return log.model_copy(update={"steps": steps})

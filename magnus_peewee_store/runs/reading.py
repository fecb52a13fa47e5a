"""Read a run from its rows, as far as they can be read, and answer questions about its log."""

import base64
import html
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from magnus.datastore import BranchLog, CodeIdentity, RunLog, StepAttempt, StepLog

from magnus_peewee_store import fragments
from magnus_peewee_store.db.rows import StoredRow
from magnus_peewee_store.exceptions import RunNotFoundError, UnreadableRowError
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.heartbeat import Beat
from magnus_peewee_store.origin import Origin, parse_origin, repository_name
from magnus_peewee_store.runs.annotations import Note, notes_of, tags_of
from magnus_peewee_store.runs.finding import find_run
from magnus_peewee_store.runs.liveness import Liveness, beats_of, liveness_of
from magnus_peewee_store.runs.reuse import complete, has_reused_steps
from magnus_peewee_store.runs.statuses import UNKNOWN
from magnus_peewee_store.scrub import scrub
from magnus_peewee_store.store import STARTED_BY, DBStore
from magnus_peewee_store.times import from_created_at, parse_time


class UnreadableRow(NamedTuple):
    """A row that cannot be read, and why."""

    run_id: str
    attribute_type: str
    attribute_key: str
    reason: str

    @property
    def name(self) -> str:
        """Its type and key."""
        return f"{self.attribute_type} {self.attribute_key}"

    def __str__(self) -> str:
        """Return its type and key, and the reason."""
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Run:
    """A run, as far as its rows can be read. A notebook displays it as its timeline."""

    run_log: RunLog
    """The run log with its parameters, steps and branches. Its status is UNKNOWN if its own row cannot be read."""
    started: Optional[datetime]
    """When it started, in UTC; None if that cannot be read."""
    unreadable: List[UnreadableRow] = field(default_factory=list)
    """The rows that cannot be read."""
    complete_log: RunLog = field(default_factory=lambda: RunLog(run_id="", status=UNKNOWN))
    """The run log in which the reused steps of a re-run have the metrics, data and branches of the original run."""
    reused: Dict[str, str] = field(default_factory=dict)
    """The id of the run that each reused step ran in, by the step's internal name."""
    liveness: Liveness = field(default_factory=Liveness)
    """When it was last seen, if it has not ended."""
    origin: Origin = field(default_factory=Origin)
    """Who started it, and where."""
    utc_offset: Optional[int] = None
    """The offset from UTC of the times of its attempts, in seconds; None if it is unknown."""
    tags: Tuple[str, ...] = ()
    """The tags that were added to it. Its own tag is in the run log."""
    notes: Tuple[Note, ...] = ()
    """Its notes, oldest first."""

    @property
    def duration(self) -> Optional[float]:
        """In seconds. An unfinished run is measured until now, a stale run until it was last seen."""
        last_seen = self.liveness.last_seen
        if self.run_log.status not in ENDED and self.started and self.liveness.is_stale and last_seen:
            return max(0.0, (last_seen - self.started).total_seconds())
        return duration_of(self.run_log.status, self.started, attempts_of(steps_of(self.run_log)))

    @property
    def pipeline(self) -> Optional[str]:
        """The file that defines the pipeline."""
        return self.run_log.run_config.get("pipeline_file") or None

    @property
    def project(self) -> Optional[str]:
        """The git remote of its code; without one, the name of the folder that it was started in."""
        codes = (code for step in steps_of(self.run_log) for code in step.code_identities)
        remote = next((code.code_identifier_url for code in codes if code.code_identifier_url), None)
        return repository_name(remote) if remote else self.origin.folder

    def _repr_html_(self) -> str:
        # Imported here because only notebooks need it. The timeline is an image, so its styles affect nothing else.
        from magnus_peewee_store.report import to_svg

        image = base64.b64encode(to_svg(self).encode()).decode()
        alternative = html.escape(f"Timeline of run {self.run_log.run_id}")
        return f'<img alt="{alternative}" style="max-width: 100%" src="data:image/svg+xml;base64,{image}">'


def read_run(store: DBStore, run_id: str) -> Run:
    """Read a run, as far as its rows can be read.

    Args:
        run_id: The id of the run. Its beginning is enough if it is unique.

    Raises:
        RunNotFoundError: If there is no such run, or several ids begin with it.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run")
        >>> store.set_parameters("my-run", {"rows": 3})
        >>> runs.read_run(store, "my").run_log.parameters
        {'rows': 3}
    """
    run = _read_if_there(store, run_id) or read_exactly(store, find_run(store, run_id))
    if not has_reused_steps(run.run_log):
        return run

    def read_original(original_run_id: str) -> Optional[RunLog]:
        original = _read_if_there(store, original_run_id)
        return original.run_log if original else None

    complete_log, reused = complete(run.run_log, read_original)
    return replace(run, complete_log=complete_log, reused=reused)


def read_exactly(store: DBStore, run_id: str) -> Run:
    """Read a run by its whole id, as far as its rows can be read. Its reused steps are not completed.

    Raises:
        RunNotFoundError: If there is no such run.
    """
    run = _read_if_there(store, run_id)
    if not run:
        raise RunNotFoundError(f"There is no run '{run_id}'.")
    return run


def to_run(run_id: str, rows: Sequence[Tuple[str, str, str]], created_at: Any, now: Optional[datetime] = None) -> Run:
    """Return the run that rows hold.

    Args:
        run_id: The id of the run.
        rows: attribute_type, attribute_key and attribute_value of its rows, oldest first.
        created_at: The created_at of the run's own row; without one, of its oldest row.
        now: The time by the database's clock, if the run has heartbeats.
    """
    unreadable: List[UnreadableRow] = []

    def parse_rows() -> Iterator[Tuple[str, str, Any]]:
        yield fragments.RUN_LOG[0], fragments.RUN_LOG_KEY, RunLog(run_id=run_id, status=UNKNOWN)
        for row in rows:
            try:
                yield row[0], row[1], fragments.parse(*row)
            except UnreadableRowError as error:
                unreadable.append(UnreadableRow(run_id, row[0], row[1], str(error)))

    run_log = fragments.assemble(parse_rows())
    assert run_log  # noqa: S101 - there is a header
    run_log.run_config = scrub(run_log.run_config)
    beats = beats_of(rows)
    origin = parse_origin(run_log.run_config.get(STARTED_BY))
    return Run(
        run_log,
        from_created_at(created_at),
        unreadable,
        run_log,
        liveness=liveness_of(beats, now) if now and run_log.status not in ENDED else Liveness(),
        origin=origin,
        utc_offset=_common_offset(origin, beats),
        tags=tuple(tag for tag in tags_of(rows) if tag != run_log.tag),
        notes=tuple(notes_of(rows)),
    )


def _common_offset(origin: Origin, beats: Sequence[Beat]) -> Optional[int]:
    """Return the UTC offset of the processes of a run; None if they differ.

    If they differ, the offset of an attempt is unknown, because attempts do not say which process wrote them.
    """
    offsets = {beat.utc_offset for beat in beats} | ({origin.utc_offset} if origin != Origin() else set())
    return offsets.pop() if len(offsets) == 1 else None


def has_ended(header: StoredRow) -> bool:
    """Return True if a run has ended, as far as its own row can be read."""
    try:
        return fragments.parse(*header.fragment).status in ENDED
    except UnreadableRowError:
        return False


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


def _read_if_there(store: DBStore, run_id: str) -> Optional[Run]:
    rows = store.table.read(run_id)
    if not rows:
        return None
    own_rows = store.table.read_runs([run_id], fragments.RUN_LOG)
    created_at = own_rows[0].created_at if own_rows else store.table.created_at_range(run_id)[0]
    now = store.table.now() if any(row[0] in fragments.HEARTBEAT for row in rows) else None
    return to_run(run_id, rows, created_at, now)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Dict[str, Any]:
    """Return a flat dictionary. Names within inner dictionaries become dot paths. Empty inner dictionaries stay."""
    flat: Dict[str, Any] = {}
    for name, value in values.items():
        if value and isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat

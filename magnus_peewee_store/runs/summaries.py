"""Summarize many runs, reading only the fields that lists and searches need."""

import itertools
import operator
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
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
    Tuple,
    TypeVar,
)

from magnus import defaults
from magnus.datastore import StepLog
from pydantic_core import SchemaValidator, core_schema, from_json

from magnus_peewee_store import fragments
from magnus_peewee_store.db.queries import Types
from magnus_peewee_store.db.table import Row
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.heartbeat import Liveness, beats_of, liveness_of
from magnus_peewee_store.logs import flatten, steps_of
from magnus_peewee_store.origin import Origin, parse_origin, repository_name
from magnus_peewee_store.runs.annotate import Note, notes_of, tags_of
from magnus_peewee_store.runs.read import UnreadableRow, to_run
from magnus_peewee_store.store import STARTED_BY, DBStore
from magnus_peewee_store.times import ISO_LENGTHS, from_created_at, parse_time

# What a list or search needs of a step. It is a plain tuple, because there are many. Its items are:
# - the status and the type,
# - the start of the first attempt and the end of the last, as magnus wrote them,
# - if values are read: whether a re-run did not repeat the step, its metrics, and the git remote of its code.
StepFields = Tuple[Any, ...]
STATUS, TYPE, START, END, IS_MOCK, METRICS, REMOTE = range(7)


class RunFields(NamedTuple):
    """What a list or search needs of a run."""

    run_id: str
    status: str
    tag: Optional[str]
    original_run_id: Optional[str]
    pipeline: Optional[str]
    started: Optional[datetime]
    params: Dict[str, Any]
    """As a flat dictionary."""
    steps: Dict[str, StepFields]
    """By internal name. Nodes that only end a graph are left out."""
    unreadable: List[UnreadableRow]
    origin: Origin = Origin()
    reused: Dict[str, str] = {}
    """The id of the run that each reused step ran in, by the step's internal name."""
    reused_metrics: Dict[str, Dict[str, Any]] = {}
    """The metrics of reused steps, and of the steps in their branches, by internal name."""
    tags: Tuple[str, ...] = ()
    """The tags that were added to it, besides its own."""
    notes: Tuple[Note, ...] = ()

    @property
    def project(self) -> Optional[str]:
        """The git remote of its code; without one, the name of the folder that it was started in."""
        remote = next((step[REMOTE] for step in self.steps.values() if step[REMOTE]), None)
        return repository_name(remote) if remote else self.origin.folder

    def metrics_by_step(self) -> Dict[str, Dict[str, Any]]:
        """Return the metrics of each step, also of reused steps, by the step's internal name."""
        metrics = {name: step[METRICS] for name, step in self.steps.items() if step[METRICS]}
        return {**metrics, **self.reused_metrics}


_TEXT = core_schema.str_schema(strict=True)
_NULLABLE_TEXT = core_schema.nullable_schema(_TEXT)
_FLAG = core_schema.bool_schema(strict=True)
_METRICS_OBJECT = core_schema.dict_schema(_TEXT)


def _typed_dict(is_required: bool = True, **fields: Any) -> Any:
    return core_schema.typed_dict_schema(
        {name: core_schema.typed_dict_field(schema, required=is_required) for name, schema in fields.items()}
    )


# A validator creates no objects for fields that the schema lacks, and accepts NaN.
_parse_header = SchemaValidator(
    _typed_dict(
        status=_TEXT,
        tag=_NULLABLE_TEXT,
        original_run_id=_NULLABLE_TEXT,
        run_config=_typed_dict(is_required=False, pipeline_file=_NULLABLE_TEXT, started_by=core_schema.any_schema()),
    )
).validate_json
_parse_whole_steps = SchemaValidator(
    core_schema.list_schema(
        _typed_dict(
            status=_TEXT,
            step_type=_TEXT,
            mock=_FLAG,
            user_defined_metrics=_METRICS_OBJECT,
            attempts=core_schema.list_schema(_typed_dict(start_time=_TEXT, end_time=_TEXT)),
            code_identities=core_schema.list_schema(_typed_dict(is_required=False, code_identifier_url=_NULLABLE_TEXT)),
        )
    )
).validate_json
_STEP_PATHS = (
    ("status",),
    ("step_type",),
    ("attempts", 0, "start_time"),
    ("attempts", -1, "end_time"),
    ("mock",),
    ("user_defined_metrics",),
    ("code_identities", 0, "code_identifier_url"),
)
_STEP_SCHEMAS = (_TEXT, _TEXT, _NULLABLE_TEXT, _NULLABLE_TEXT, _FLAG, _METRICS_OBJECT, _NULLABLE_TEXT)


class _Selection:
    """What to read: the run's own row, its annotations, rows of other types, and the first fields of each step.

    Args:
        other_types: The other types.
        field_count: How many fields of each step to read. With 0, steps are not read.
    """

    def __init__(self, other_types: Types, field_count: int) -> None:
        self.types = fragments.RUN_LOG + fragments.ANNOTATIONS + other_types
        self.field_types = fragments.STEP if field_count else ()
        self.paths = _STEP_PATHS[:field_count]
        step_schema = core_schema.tuple_schema([*_STEP_SCHEMAS[:field_count]])
        self._parse_extracted_steps = SchemaValidator(core_schema.list_schema(step_schema)).validate_json

    def parse_steps(self, values: Sequence[str]) -> List[StepFields]:
        """Return the fields of steps. Each value is a list of fields that the database extracted, or a whole step log.

        Raises:
            ValueError: If a value does not have the form that magnus writes.
        """
        if not values:
            return []
        # All at once, because many calls take longer. Usually, all values have the same form.
        text = f"[{','.join(values)}]"
        are_lists = values[0].startswith("[")
        try:
            steps = self._parse_extracted_steps(text) if are_lists else [*map(_fields_of, _parse_whole_steps(text))]
        except ValueError:
            if len(values) == 1:
                raise
            return [step for value in values for step in self.parse_steps([value])]
        if len(steps) != len(values):
            raise ValueError("a value is not one JSON document")
        return steps


_WITH_VALUES = _Selection(fragments.PARAMETER, len(_STEP_PATHS))
_WITHOUT_VALUES = _Selection((), IS_MOCK)  # only the fields before IS_MOCK
_WITHOUT_STEPS = _Selection((), 0)


def read_fields(store: DBStore, run_ids: Sequence[str]) -> List[RunFields]:
    """Return the fields of runs, in the order of the ids, as far as they can be read.

    Args:
        run_ids: The whole ids, at most a few hundred.
    """
    known = _read_own_fields(store, run_ids, _WITH_VALUES)
    missing = _missing_originals(known, known)
    while missing:
        loaded = _read_own_fields(store, missing, _WITH_VALUES)
        known.update(loaded)
        missing = _missing_originals(loaded, known)
    return [_add_reused(known[run_id], known) for run_id in run_ids]


def read_progress(store: DBStore, run_ids: Sequence[str]) -> List[RunFields]:
    """Return the fields of runs, in the order of the ids, without params, metrics, project and reused steps."""
    return [*_read_own_fields(store, run_ids, _WITHOUT_VALUES).values()]


def read_headers(store: DBStore, run_ids: Sequence[str]) -> List[RunFields]:
    """Return what the runs' own rows and their annotations hold, in the order of the ids."""
    return [*_read_own_fields(store, run_ids, _WITHOUT_STEPS).values()]


def _missing_originals(runs: Mapping[str, RunFields], known: Mapping[str, RunFields]) -> List[str]:
    originals = (run.original_run_id for run in runs.values() if run.original_run_id and _reused_steps(run))
    return list(dict.fromkeys(run_id for run_id in originals if run_id not in known))


def _reused_steps(run: RunFields) -> List[str]:
    return [name for name, step in run.steps.items() if step[IS_MOCK]] if run.original_run_id else []


def _add_reused(run: RunFields, known: Dict[str, RunFields]) -> RunFields:
    """Return a run with the metrics of its reused steps, which the original run has; see `reuse`.

    The results replace the runs in `known`.
    """
    chain = [run]
    while _reused_steps(chain[-1]) and not chain[-1].reused:
        original = known.get(chain[-1].original_run_id or "")
        if original is None or original in chain:
            break
        chain.append(original)
    for each in reversed(chain):
        known[each.run_id] = _add_reused_from(each, known.get(each.original_run_id or ""))
    return known[run.run_id]


def _add_reused_from(run: RunFields, original: Optional[RunFields]) -> RunFields:
    names = _reused_steps(run)
    if not names or run.reused or original is None:
        return run
    metrics_of = {name: step[METRICS] for name, step in original.steps.items()}
    metrics_of.update(original.reused_metrics)
    reused = {name: original.reused.get(name, original.run_id) for name in names}
    found = {
        inner: metrics
        for name in names
        for inner, metrics in metrics_of.items()
        if inner == name or inner.startswith(f"{name}.")
    }
    return run._replace(reused=reused, reused_metrics=found)


def _read_own_fields(store: DBStore, run_ids: Sequence[str], selection: _Selection) -> Dict[str, RunFields]:
    """Return the fields that the runs' own rows hold, in the order of the ids. Reused steps are not filled in."""
    table = store.table
    rows = table.read_fields(run_ids, selection.types, selection.field_types, selection.paths)
    rows_of = {run_id: list(group) for run_id, group in itertools.groupby(rows, operator.itemgetter(0))}
    fields = {}
    for run_id in run_ids:
        try:
            fields[run_id] = _to_fields(run_id, rows_of.get(run_id, ()), selection, table.parse_created_at)
        except (IndexError, ValueError, RecursionError):
            # A row is not as expected, or there is no header.
            fields[run_id] = _read_slowly(store, run_id)
    return fields


def _to_fields(
    run_id: str,
    rows: Iterable[Sequence[Any]],
    selection: _Selection,
    parse_created_at: Callable[[Any], Optional[datetime]],
) -> RunFields:
    """Return the fields that the rows of a run hold.

    Raises:
        IndexError: If the run has no row of its own.
        ValueError: If a row does not have the form that magnus writes.
    """
    headers: List[Tuple[str, Any]] = []
    annotations: List[Row] = []
    params: Dict[str, Any] = {}
    step_names: List[str] = []
    step_values: List[str] = []
    for _, attribute_type, name, value, created_at in rows:
        if attribute_type in fragments.PARAMETER:
            params[name] = from_json(value)
        elif attribute_type in fragments.RUN_LOG:
            headers.append((value, created_at))
        elif attribute_type in fragments.ANNOTATIONS:
            annotations.append((attribute_type, name, value))
        else:
            step_names.append(name)
            step_values.append(value)
    (_, created_at), (header, _) = headers[0], headers[-1]
    own = _parse_header(header)
    steps = zip(step_names, selection.parse_steps(step_values))
    return RunFields(
        run_id,
        own["status"],
        own["tag"],
        own["original_run_id"],
        own["run_config"].get("pipeline_file"),
        from_created_at(parse_created_at(created_at)),
        flatten(params),
        {name: step for name, step in steps if step[TYPE] not in fragments.TERMINAL_STEP_TYPES},
        [],
        parse_origin(own["run_config"].get(STARTED_BY)),
        tags=tuple(tag for tag in tags_of(annotations) if tag != own["tag"]) if annotations else (),
        notes=tuple(notes_of(annotations)) if annotations else (),
    )


def _read_slowly(store: DBStore, run_id: str) -> RunFields:
    """Return the fields of a run that has rows which are not as expected."""
    types = fragments.RUN_LOG + fragments.PARAMETER + fragments.STEP + fragments.ANNOTATIONS
    rows = store.table.read_runs([run_id], types)
    header = next((row for row in rows if row.attribute_type in fragments.RUN_LOG), rows[0] if rows else None)
    run = to_run(run_id, [row.fragment for row in rows], header.created_at if header else None)
    run_log = run.run_log
    return RunFields(
        run_id,
        run_log.status,
        run_log.tag,
        run_log.original_run_id,
        run_log.run_config.get("pipeline_file"),
        run.started,
        flatten(run_log.parameters),
        {step.internal_name: _step_fields(step) for step in steps_of(run_log)},
        run.unreadable,
        run.origin,
        tags=run.tags,
        notes=run.notes,
    )


def _fields_of(step: Mapping[str, Any]) -> StepFields:
    attempts, codes = step["attempts"], step["code_identities"]
    times = (attempts[0]["start_time"], attempts[-1]["end_time"]) if attempts else (None, None)
    remote = codes[0].get("code_identifier_url") if codes else None
    return (step["status"], step["step_type"], *times, step["mock"], step["user_defined_metrics"], remote)


def _step_fields(step: StepLog) -> StepFields:
    times = (step.attempts[0].start_time, step.attempts[-1].end_time) if step.attempts else (None, None)
    remote = step.code_identities[0].code_identifier_url if step.code_identities else None
    return (step.status, step.step_type, *times, step.mock, step.user_defined_metrics, remote)


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
        now = store.database.retry(store.database.now) if beats else None
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

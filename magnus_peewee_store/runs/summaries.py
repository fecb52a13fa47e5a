"""Summarize many runs, reading only the fields that lists and searches need."""

import functools
import itertools
import operator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from magnus import defaults
from pydantic_core import SchemaValidator, core_schema, from_json

from magnus_peewee_store import fragments
from magnus_peewee_store.db.table import Row
from magnus_peewee_store.db.whole_runs import batches
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.heartbeat import Beat, Liveness, beats_of, liveness_of, state_of, time_of_last
from magnus_peewee_store.logs import Steps, duration_of, project_of, seconds_of, span_of, steps_of, trace
from magnus_peewee_store.metrics import Series, flatten, flatten_metrics
from magnus_peewee_store.origin import Origin, parse_origin
from magnus_peewee_store.runs.annotate import Note, notes_of, tags_of
from magnus_peewee_store.runs.read import common_offset, to_run
from magnus_peewee_store.store import STARTED_BY, DBStore
from magnus_peewee_store.times import from_created_at

# What a list or search needs of a step. It is a plain tuple, because there are many. Its items are:
# - the status and the type,
# - the start of the first attempt and the end of the last, as magnus wrote them,
# - if values are read: whether a re-run did not repeat the step, its metrics, and the git remote and commit of its
#   code.
StepFields = Tuple[Any, ...]
STATUS, TYPE, START, END, IS_MOCK, METRICS, REMOTE, COMMIT = range(8)


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs shows about one run. None means unknown."""

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
    environment: Optional[str] = None
    """The versions of Python and magnus that it was started with."""
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
    params: Dict[str, Any] = field(default_factory=dict)
    """The final parameters. A name within a dictionary is a dot path."""
    metrics: Dict[str, Any] = field(default_factory=dict)
    """The metrics. A name is the step's internal name, a dot, and the metric's name, which may be a dot path. A metric
    with iterations has its last value here."""
    series: Dict[str, Series] = field(default_factory=dict, repr=False)
    """The metrics with iterations, by the same names."""
    reused: Dict[str, str] = field(default_factory=dict)
    """The id of the run that each reused step ran in, by the step's internal name.

    A re-run does not repeat the steps that succeeded before. The metrics of these steps are among the metrics.
    """
    project: Optional[str] = None
    """The git remote of its code; without one, the name of the folder that it was started in."""
    commit: Optional[str] = None
    """The git commit of its code, or of the first step that has one."""

    @property
    def state(self) -> str:
        """`STALE` or `INTERRUPTED` for an unfinished run that died, otherwise its status."""
        return state_of(self.status, self.is_stale, self.is_interrupted)


def summarize(store: DBStore, run_ids: Sequence[str], with_values: bool = True) -> List[RunSummary]:
    """Return a summary of each run, in the order of the ids.

    Args:
        run_ids: The whole ids.
        with_values: Whether to read the fields params, metrics, reused, project and commit, too. They take longest.
    """
    return list(iter_summaries(store, run_ids, with_values))


def iter_summaries(
    store: DBStore, run_ids: Sequence[str], with_values: bool = True, with_steps: bool = True
) -> Iterator[RunSummary]:
    """Yield what `summarize` returns, reading one batch at a time. Without steps, the fields about steps are empty."""
    field_count = len(_STEP_PATHS) if with_values else IS_MOCK if with_steps else 0
    for batch in batches(run_ids):
        known = _read(store, batch, field_count)
        # A run may have many heartbeats, one for each pod. They do not matter if it has succeeded.
        needing_beats = [
            run_id for run_id in batch if known[run_id].status != defaults.SUCCESS or _has_two_spans(known[run_id])
        ]
        rows: Dict[str, List[Row]] = {}
        for row in store.table.read_runs(needing_beats, fragments.HEARTBEAT):
            rows.setdefault(row.run_id, []).append(row.fragment)
        now = store.database.retry(store.database.now) if rows else None
        for run_id in batch:
            run, beats = known[run_id], beats_of(rows.get(run_id, ()))
            liveness = liveness_of(beats, now) if now and run.status not in ENDED else Liveness()
            values = _values_of(run, known) if with_values else {}
            yield RunSummary(**run.facts, **_progress_of(run, liveness, beats), **liveness._asdict(), **values)


def iter_metrics(store: DBStore, run_ids: Sequence[str]) -> Iterator[Tuple[str, Dict[str, Dict[str, Any]]]]:
    """Yield the id of each run with the metrics of each step, also of reused steps, by the step's internal name."""
    for batch in batches(run_ids):
        known = _read(store, batch, len(_STEP_PATHS))
        for run_id in batch:
            yield run_id, {name: step[METRICS] for name, (_, step) in _trace(known[run_id], known).items()}


class _RunRows(NamedTuple):
    """What the rows of one run hold."""

    facts: Dict[str, Any]
    """Fields of `RunSummary`."""
    params: Dict[str, Any]
    origin: Origin
    steps: Steps
    """Each step is a `StepFields`. Nodes that only end a graph are left out."""

    @property
    def status(self) -> str:
        return str(self.facts["status"])


def _has_two_spans(run: _RunRows) -> bool:
    """Return True if the length of a run depends on its UTC offset, since a clock was changed for the summer."""
    utc_offset = run.origin.utc_offset
    return utc_offset is not None and seconds_of(_span(run, utc_offset)) != seconds_of(_span(run, None))


def _span(run: _RunRows, utc_offset: Optional[int]) -> Optional[Tuple[datetime, datetime]]:
    steps = run.steps.by_name.values()
    return span_of([step[START] for step in steps] + [step[END] for step in steps], utc_offset)


def _progress_of(run: _RunRows, liveness: Liveness, beats: Sequence[Beat]) -> Dict[str, Any]:
    steps, facts = run.steps.by_name, run.facts
    statuses = [step[STATUS] for step in steps.values()]
    failed = [name for name, status in zip(steps, statuses) if status == defaults.FAIL]
    span = _span(run, common_offset(run.origin, beats))
    return {
        "duration": duration_of(run.status, facts["started"], liveness.is_stale, time_of_last(beats), span),
        "steps_done": statuses.count(defaults.SUCCESS),
        "steps_known": len(steps) + sum(name.partition(" ")[0] in fragments.STEP for name in facts["unreadable"]),
        "failed_step": next(
            (name for name in failed if not any(other.startswith(f"{name}.") for other in failed)), None
        ),
    }


def _values_of(run: _RunRows, known: Mapping[str, _RunRows]) -> Dict[str, Any]:
    places = _trace(run, known)
    metrics: Dict[str, Any] = {}
    for name, (_, step) in places.items():
        metrics.update(flatten_metrics(step[METRICS], f"{name}."))
    series = {name: value for name, value in metrics.items() if isinstance(value, Series)}
    return {
        "params": flatten(run.params),
        "metrics": {**metrics, **{name: value.last.value for name, value in series.items()}},
        "series": series,
        "reused": {name: places[name][0] for name in run.steps.reused},
        "project": project_of((step[REMOTE] for step in run.steps.by_name.values()), run.origin),
        "commit": next(filter(None, (step[COMMIT] for step in run.steps.by_name.values())), None),
    }


def _trace(run: _RunRows, known: Mapping[str, _RunRows]) -> Dict[str, Tuple[str, StepFields]]:
    return trace(run.steps, lambda run_id: known[run_id].steps)


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
            code_identities=core_schema.list_schema(
                _typed_dict(is_required=False, code_identifier_url=_NULLABLE_TEXT, code_identifier=_NULLABLE_TEXT)
            ),
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
    ("code_identities", 0, "code_identifier"),
)
_STEP_SCHEMAS = (_TEXT, _TEXT, _NULLABLE_TEXT, _NULLABLE_TEXT, _FLAG, _METRICS_OBJECT, _NULLABLE_TEXT, _NULLABLE_TEXT)


@functools.lru_cache(maxsize=None)
def _extracted_steps_parser(field_count: int) -> Any:
    step_schema = core_schema.tuple_schema([*_STEP_SCHEMAS[:field_count]])
    return SchemaValidator(core_schema.list_schema(step_schema)).validate_json


def _parse_steps(values: Sequence[str], field_count: int) -> List[StepFields]:
    """Return the fields of steps. Each value is a list of fields that the database extracted, or a whole step log."""
    if not values:
        return []
    # All at once, because many calls take longer. Usually, all values have the same form.
    text = f"[{','.join(values)}]"
    try:
        if values[0].startswith("["):
            steps: List[StepFields] = _extracted_steps_parser(field_count)(text)
        else:
            steps = [*map(_fields_of, _parse_whole_steps(text))]
    except ValueError:
        if len(values) == 1:
            raise
        return [step for value in values for step in _parse_steps([value], field_count)]
    if len(steps) != len(values):
        raise ValueError("a value is not one JSON document")
    return steps


def _fields_of(step: Mapping[str, Any]) -> StepFields:
    attempts, codes = step["attempts"], step["code_identities"]
    times = (attempts[0]["start_time"], attempts[-1]["end_time"]) if attempts else (None, None)
    code = codes[0] if codes else {}
    fields = (step["status"], step["step_type"], *times, step["mock"], step["user_defined_metrics"])
    return (*fields, code.get("code_identifier_url"), code.get("code_identifier"))


def _read(store: DBStore, run_ids: Sequence[str], field_count: int) -> Dict[str, _RunRows]:
    """Read the rows of a batch of runs, and of the runs whose steps they reuse. Skip what cannot be read.

    With a `field_count` of 0, steps are not read.
    """
    types = fragments.RUN_LOG + fragments.ANNOTATIONS + (fragments.PARAMETER if field_count > IS_MOCK else ())
    field_types, paths = fragments.STEP if field_count else (), _STEP_PATHS[:field_count]
    known: Dict[str, _RunRows] = {}
    missing = list(dict.fromkeys(run_ids))
    while missing:
        rows = store.table.read_fields(missing, types, field_types, paths)
        rows_of = {run_id: list(group) for run_id, group in itertools.groupby(rows, operator.itemgetter(0))}
        for run_id in missing:
            try:
                known[run_id] = _parse_rows(store, run_id, rows_of.get(run_id, ()), field_count)
            except (IndexError, *fragments.PARSE_ERRORS):
                # A row is not as expected, or there is no header.
                known[run_id] = _read_slowly(store, run_id)
        steps = [known[run_id].steps for run_id in missing]
        originals = dict.fromkeys(str(each.original_run_id) for each in steps if each.reused)
        missing = [run_id for run_id in originals if run_id not in known]
    return known


def _parse_rows(store: DBStore, run_id: str, rows: Iterable[Sequence[Any]], field_count: int) -> _RunRows:
    """Return what the rows of a run hold. Raise IndexError or ValueError if a row is missing or not as expected."""
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
    return _make_run_rows(
        run_id,
        own,
        from_created_at(store.table.parse_created_at(created_at)),
        annotations,
        params,
        zip(step_names, _parse_steps(step_values, field_count)),
    )


def _read_slowly(store: DBStore, run_id: str) -> _RunRows:
    """Return what the rows of a run hold if some rows are not as expected."""
    types = fragments.RUN_LOG + fragments.PARAMETER + fragments.STEP + fragments.ANNOTATIONS
    rows = list(store.table.read_runs([run_id], types))
    header = next((row for row in rows if row.attribute_type in fragments.RUN_LOG), rows[0] if rows else None)
    run = to_run(run_id, [row.fragment for row in rows], header.created_at if header else None)
    steps = ((step.internal_name, _fields_of(step.model_dump(exclude={"branches"}))) for step in steps_of(run.run_log))
    return _make_run_rows(
        run_id,
        vars(run.run_log),
        run.started,
        [row.fragment for row in rows],
        run.run_log.parameters,
        steps,
        [row.name for row in run.unreadable],
    )


def _make_run_rows(
    run_id: str,
    own: Mapping[str, Any],
    started: Optional[datetime],
    annotations: Sequence[Row],
    params: Dict[str, Any],
    steps: Iterable[Tuple[str, StepFields]],
    unreadable: Sequence[str] = (),
) -> _RunRows:
    run_config, tag, original_run_id = own["run_config"], own["tag"], own["original_run_id"]
    origin = parse_origin(run_config.get(STARTED_BY))
    facts = {
        "run_id": run_id,
        "status": own["status"],
        "tag": tag or None,
        "started": started,
        "unreadable": [*unreadable],
        "pipeline": run_config.get("pipeline_file") or None,
        "user": origin.user,
        "host": origin.host,
        "environment": origin.environment,
        "tags": tags_of(annotations, tag),
        "notes": notes_of(annotations),
    }
    by_name = {name: step for name, step in steps if step[TYPE] not in fragments.TERMINAL_STEP_TYPES}
    has_values = bool(original_run_id) and all(len(step) > IS_MOCK for step in by_name.values())
    reused = [name for name, step in by_name.items() if step[IS_MOCK]] if has_values else []
    return _RunRows(facts, params, origin, Steps(run_id, original_run_id, by_name, reused))

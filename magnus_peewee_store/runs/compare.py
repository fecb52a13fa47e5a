"""Compare runs."""

import json
from typing import Any, Dict, NamedTuple, Optional, Sequence

from magnus.datastore import RunLog

from magnus_peewee_store.logs import code_versions, elapsed, steps_of
from magnus_peewee_store.metrics import flatten, last_value
from magnus_peewee_store.runs.lineage import OUTPUT_FILE
from magnus_peewee_store.runs.read import Run

LEAST_CHANGE = 0.1  # durations that differ by less than 0.1 seconds, or by less than a tenth, count as equal

Values = Dict[str, Any]

_to_json = json.JSONEncoder(sort_keys=True).encode  # Made once, because `json.dumps` makes one for each call.


class StepState(NamedTuple):
    """How a step went in one of the compared runs."""

    status: str
    duration: Optional[float]
    """In seconds."""
    reused: Optional[str] = None
    """The id of the run that a reused step ran in; None for other steps."""


class Differences(NamedTuple):
    """What differs between runs. Each section maps a name to the values of the runs.

    A run that lacks the name has no value. A name within a dictionary is a dot path.
    """

    run: Dict[str, Values]
    """The status, the tag, and the hash of the pipeline."""
    parameters: Dict[str, Values]
    metrics: Dict[str, Values]
    """A name is the step's internal name, a dot, and the metric's name. A metric with iterations has a `Series` as
    value. Series differ if their last values differ."""
    data: Dict[str, Values]
    """The hashes of catalogued files."""
    code: Dict[str, Values]
    """The version of the code."""
    environment: Dict[str, Values]
    """The versions of Python and of the packages, if all runs recorded them."""
    steps: Dict[str, Dict[str, StepState]]
    """Durations are equal if they differ by less than 10% or 100 ms."""


def diff(a: RunLog, b: RunLog) -> Differences:
    """Return what differs between two runs. In the result, the runs are named `"a"` and `"b"`."""
    sides = {"a": Run(a, None, complete_log=a), "b": Run(b, None, complete_log=b)}
    return _compare({side: _sections(run) for side, run in sides.items()})


def compare(runs: Sequence[Run]) -> Differences:
    """Return what differs between any number of runs. In the result, the runs are named by their ids.

    Args:
        runs: What `read_run` returned.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> for run_id, rows in (("first", 3), ("second", 4)):
        ...     _ = store.create_run_log(run_id)
        ...     store.set_parameters(run_id, {"rows": rows})
        >>> runs.compare([runs.read_run(store, run_id) for run_id in ("first", "second")]).parameters
        {'rows': {'first': 3, 'second': 4}}
    """
    sections_of = {run.run_log.run_id: _sections(run) for run in runs}
    if not all(run.packages for run in runs):
        sections_of = {run_id: {**sections, "environment": {}} for run_id, sections in sections_of.items()}
    return _compare(sections_of)


def _sections(run: Run) -> Dict[str, Values]:
    run_log = run.complete_log
    steps = list(steps_of(run_log))
    return {
        "run": {"status": run_log.status, "tag": run_log.tag or "", "pipeline": run_log.dag_hash or ""},
        "parameters": flatten(run_log.parameters),
        "metrics": run.metrics,
        "data": {
            f"{step.internal_name} {data.stage} {data.name}": data.data_hash
            for step in steps
            for data in sorted(step.data_catalog, key=lambda data: (data.stage, data.name))
            if OUTPUT_FILE not in data.name
        },
        "code": {"version": ", ".join(code_versions(run_log))},
        "environment": {"Python": run.origin.python, **dict(each.partition("==")[::2] for each in run.packages)},
        "steps": {
            step.internal_name: StepState(
                step.status, elapsed(step.attempts, run.utc_offset), run.reused.get(step.internal_name)
            )
            for step in steps
        },
    }


def _compare(sections_of: Dict[str, Dict[str, Values]]) -> Differences:
    return Differences(
        *(_differences({run: sections[name] for run, sections in sections_of.items()}) for name in Differences._fields)
    )


def _differences(values_of: Dict[str, Values]) -> Dict[str, Values]:
    names = dict.fromkeys(name for values in values_of.values() for name in values)
    rows = {name: {run: values[name] for run, values in values_of.items() if name in values} for name in names}
    return {name: row for name, row in rows.items() if len(row) < len(values_of) or _differ(list(row.values()))}


def _differ(values: Sequence[Any]) -> bool:
    if all(isinstance(value, StepState) for value in values):
        durations = [value.duration for value in values if value.duration is not None]
        change = max(durations) - min(durations) if durations else 0.0
        if change > LEAST_CHANGE and change > LEAST_CHANGE * min(durations):
            return True
        values = [value._replace(duration=None) for value in values]
    # Compared as JSON, because NaN differs from itself. `repr` gives the JSON of a finite number sooner.
    values = [last_value(value) for value in values]
    return len({repr(value) if type(value) in (int, float) else _to_json(value) for value in values}) > 1

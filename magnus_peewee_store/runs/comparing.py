"""Compare runs."""

import json
from typing import Any, Dict

from magnus.datastore import RunLog

from magnus_peewee_store.runs.reading import code_versions, duration_of, flatten, steps_of


def diff(a: RunLog, b: RunLog) -> Dict[str, Dict[str, Dict[str, Any]]]:
    """Return what differs between two runs.

    Args:
        a: A run log.
        b: Another.

    Returns:
        A dictionary by section (`run`, `parameters`, `metrics`, `code`, `steps`) and name. It holds the two values as
        `{"a": ..., "b": ...}`, without the value of a run that lacks the name. A nested name is a dot path.
    """
    sections_a, sections_b = _sections(a), _sections(b)
    return {section: _differences(sections_a[section], sections_b[section]) for section in sections_a}


def _sections(run_log: RunLog) -> Dict[str, Dict[str, Any]]:
    steps = list(steps_of(run_log))
    metrics = {step.internal_name: step.user_defined_metrics for step in steps if step.user_defined_metrics}
    return {
        "run": {"status": run_log.status, "tag": run_log.tag or "", "pipeline": run_log.dag_hash or ""},
        "parameters": flatten(run_log.parameters),
        "metrics": flatten(metrics),
        "code": {"version": ", ".join(code_versions(run_log))},
        "steps": {
            step.internal_name: {"status": step.status, "duration": duration_of(step.status, None, step.attempts)}
            for step in steps
        },
    }


def _differences(a: Dict[str, Any], b: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    names = dict.fromkeys([*a, *b])
    pairs = {name: {side: of[name] for side, of in (("a", a), ("b", b)) if name in of} for name in names}
    # Compared as JSON, because NaN differs from itself.
    return {
        name: pair
        for name, pair in pairs.items()
        if len(pair) == 1 or json.dumps(pair["a"], sort_keys=True) != json.dumps(pair["b"], sort_keys=True)
    }

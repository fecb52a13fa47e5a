"""Test with random runs that `search` agrees with a naive filter over full run logs."""

import math
from typing import Any, Dict, Iterator, List, Tuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs import step
from magnus.datastore import BranchLog, RunLog

from magnus_peewee_store import ConditionError, DBStore, runs

NAMES = st.sampled_from(["rmse", "a b", "a.b", "b", "it's", 'say "x"', "\U0001f600", "\u00e9", "NaN", "x<y", "%_\\"])
NUMBERS = st.sampled_from([0, 1, -3, 0.5, 1e300, math.nan, math.inf, -math.inf, 10**25])
VALUES = st.one_of(NUMBERS, st.sampled_from(["", "text", "NaN", "0.5", 'q"', "\U0001f600"]), st.booleans(), st.none())
METRICS = st.dictionaries(NAMES, st.one_of(VALUES, st.dictionaries(NAMES, VALUES, max_size=2)), max_size=3)
STATUSES = st.sampled_from(["SUCCESS", "FAIL", "PROCESSING"])
RUN = st.tuples(STATUSES, st.dictionaries(NAMES, VALUES, max_size=3), METRICS, METRICS)
ORDERINGS = {"<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}


def write(store: DBStore, run_id: str, run: Tuple[str, Dict[str, Any], Dict[str, Any], Dict[str, Any]]) -> None:
    status, parameters, outer, inner = run
    work = step("each.jan.csv.work", user_defined_metrics=inner)
    branch = BranchLog(internal_name="each.jan.csv", steps={work.internal_name: work})
    each = step("each", step_type="map", user_defined_metrics=outer, branches={branch.internal_name: branch})
    store.put_run_log(RunLog(run_id=run_id, status=status, parameters=parameters, steps={"each": each}))


def leaves(values: Dict[str, Any], prefix: str = "") -> Iterator[Tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def naive_values(run_log: RunLog, name: str) -> List[Any]:
    """Return the values of a name, from the full run log."""
    each = run_log.steps["each"]
    work = each.branches["each.jan.csv"].steps["each.jan.csv.work"]
    metrics = dict(leaf for log in (each, work) for leaf in leaves(log.user_defined_metrics, f"{log.internal_name}."))
    params = dict(leaves(run_log.parameters))
    found = [params[name]] if name in params else []
    return found + [value for metric, value in metrics.items() if metric == name or metric.endswith(f".{name}")]


def is_met(value: Any, operator: str, operand: float) -> bool:
    """Compare a value with a number."""
    if operator in ("=", "!="):
        if isinstance(value, str):
            is_equal = value == str(operand)
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            is_equal = False
        else:
            is_equal = value == operand or (value != value and operand != operand)
        return is_equal == (operator == "=")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and getattr(float(value), ORDERINGS[operator])(float(operand))


@given(st.lists(RUN, min_size=1, max_size=4), NAMES, st.sampled_from([*ORDERINGS, "=", "!="]), NUMBERS, st.booleans())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_search_agrees_with_naive_filter(
    store: DBStore, written: List[Any], name: str, operator: str, operand: float, descending: bool
) -> None:
    for run_id in [run_id for run_id, _ in store.table.runs(["RunLog"])]:
        store.table.delete(run_id)
    for number, run in enumerate(written):
        write(store, f"run {number}", run)
    logs = [store.get_run_log_by_id(f"run {number}", full=True) for number in reversed(range(len(written)))]
    values = {log.run_id: naive_values(log, name) for log in logs}
    condition = runs.Condition(name, operator, str(operand))
    if not any(values.values()):
        try:
            runs.search(store, [condition])
        except ConditionError:
            return
        raise AssertionError("the unknown name was not reported")
    expected = [run_id for run_id, own in values.items() if any(is_met(value, operator, operand) for value in own)]
    assert [run.run_id for run in runs.search(store, [condition])] == expected

    def best(run_id: str) -> Any:
        numbers = [each for each in values[run_id] if isinstance(each, (int, float)) and each == each]
        return (max if descending else min)(numbers) if numbers else None

    found = [run.run_id for run in runs.search(store, order_by=name, descending=descending)]
    ranked = [best(run_id) for run_id in found]
    numbers = [value for value in ranked if value is not None]
    assert numbers == sorted(numbers, reverse=descending) and ranked[: len(numbers)] == numbers
    assert sorted(found) == sorted(values)

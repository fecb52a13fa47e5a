"""What magnus documents of a run log store, and what this one promises beyond it, on every database.

Magnus' own stores pass the same tests wherever they are right: so the tests, too, are tested.
"""

import datetime
import math
from collections import OrderedDict
from typing import Any, Dict

import pytest
from logs import step
from magnus import exceptions
from magnus.datastore import BaseRunLogStore, BranchLog, RunLog, StepLog

from magnus_peewee_store import DBStore

BOTH = pytest.mark.oracle("file-system", "chunked-fs")
WHOLE = pytest.mark.oracle("file-system")

ODD_NAMES = [
    "x",
    "xy",
    "a",
    "A",
    "a ",
    "jan.csv",
    "in/out",
    'it\'s "quoted"',
    "100%",
    "%s ? $1 :name",
    "\N{SNAKE}",
    "e\u0301",
    "\u00e9",
    "n" * 500,
]

VALUES = [
    math.inf,
    -math.inf,
    0.1,
    -0.0,
    2**64,
    -(10**400),
    "nul \0 inside",
    "\N{SNAKE} \u00e9 \ud800 lone",
    "",
    None,
    False,
    {"": {"deep": [[], {}]}},
]


def branch(name: str, *steps: StepLog) -> BranchLog:
    return BranchLog(internal_name=name, steps=OrderedDict((each.internal_name, each) for each in steps))


def nested_run_log() -> RunLog:
    """A map of two branches, one of which nests a parallel."""
    left = branch("map.jan.csv.split.left", step("map.jan.csv.split.left.a"))
    split = step("map.jan.csv.split", step_type="parallel", branches={left.internal_name: left})
    january = branch("map.jan.csv", step("map.jan.csv.work"), split)
    other = branch("map.1.5", step("map.1.5.work"))
    mapped = step("map", step_type="map", branches={each.internal_name: each for each in (january, other)})
    return RunLog(
        run_id="run",
        status="SUCCESS",
        tag="nightly",
        parameters={"b": 1, "a": {"nested": [1, None]}},
        run_config={"executor": {"service_name": "local"}},
        steps=branch("", step("load", status="SUCCESS"), mapped, step("success")).steps,
    )


# The run


@BOTH
def test_a_new_run_log_has_what_it_was_created_with(any_store: BaseRunLogStore) -> None:
    created = any_store.create_run_log(
        "run", dag_hash="4a2", use_cached=True, tag="t", original_run_id="old", status="S"
    )
    assert created == any_store.get_run_log_by_id("run")
    assert created == RunLog(run_id="run", dag_hash="4a2", use_cached=True, tag="t", original_run_id="old", status="S")


@BOTH
def test_a_run_log_is_created_once(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run", tag="first")
    with pytest.raises(exceptions.RunLogExistsError):
        any_store.create_run_log("run", tag="second")
    assert any_store.get_run_log_by_id("run").tag == "first"


@BOTH
@pytest.mark.parametrize("full", [False, True])
def test_a_run_that_is_not_there_is_not_found(any_store: BaseRunLogStore, full: bool) -> None:
    any_store.create_run_log("another")
    with pytest.raises(exceptions.RunLogNotFoundError):
        any_store.get_run_log_by_id("run", full=full)


def test_what_is_not_there_is_named_in_the_error(store: DBStore) -> None:
    with pytest.raises(exceptions.RunLogNotFoundError, match="Run id for run is not found"):
        store.get_run_log_by_id("run")
    store.create_run_log("run")
    with pytest.raises(exceptions.RunLogExistsError, match="Run id for run is already found"):
        store.create_run_log("run")
    with pytest.raises(exceptions.StepLogNotFoundError, match="Step log for a is not found"):
        store.get_step_log("a", "run")
    with pytest.raises(exceptions.BranchLogNotFoundError, match="Branch log for a.b is not found"):
        store.add_step_log(step("a.b.c"), "run")


@WHOLE
def test_a_run_log_comes_back_as_it_was_put(any_store: BaseRunLogStore) -> None:
    any_store.put_run_log(nested_run_log())
    assert any_store.get_run_log_by_id("run", full=True).model_dump() == nested_run_log().model_dump()


def test_a_run_log_without_its_steps_has_its_parameters(store: DBStore) -> None:
    store.put_run_log(nested_run_log())
    bare = store.get_run_log_by_id("run")
    assert bare.parameters == nested_run_log().parameters
    assert not bare.steps


def test_putting_a_run_log_takes_away_nothing(store: DBStore) -> None:
    store.put_run_log(nested_run_log())
    store.put_run_log(RunLog(run_id="run", status="FAIL", parameters={"c": 3}))
    run_log = store.get_run_log_by_id("run", full=True)
    assert run_log.status == "FAIL"
    assert run_log.parameters == {**nested_run_log().parameters, "c": 3}
    assert list(run_log.steps) == ["load", "map", "success"]


@BOTH
def test_the_status_of_a_run_changes(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run", tag="t")
    any_store.update_run_log_status("run", "SUCCESS")
    run_log = any_store.get_run_log_by_id("run")
    assert (run_log.status, run_log.tag) == ("SUCCESS", "t")


@BOTH
def test_runs_do_not_mix(any_store: BaseRunLogStore) -> None:
    for run_id in ("run", "RUN", "run-2"):
        any_store.create_run_log(run_id)
        any_store.set_parameters(run_id, {"x": run_id})
        any_store.add_step_log(step("a", message=run_id), run_id)
    for run_id in ("run", "RUN", "run-2"):
        run_log = any_store.get_run_log_by_id(run_id, full=True)
        assert run_log.parameters == {"x": run_id}
        assert [each.message for each in run_log.steps.values()] == [run_id]


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.update_run_log_status("run", "SUCCESS"),
        lambda store: store.get_parameters("run"),
        lambda store: store.set_parameters("run", {"x": 1}),
        lambda store: store.set_parameters("run", {}),
        lambda store: store.get_run_config("run"),
        lambda store: store.set_run_config("run", {"x": 1}),
        lambda store: store.get_step_log("a", "run"),
        lambda store: store.add_step_log(step("a"), "run"),
        lambda store: store.get_branch_log("a.b", "run"),
        lambda store: store.get_branch_log("", "run"),
        lambda store: store.add_branch_log(BranchLog(internal_name="a.b"), "run"),
    ],
)
@WHOLE
def test_nothing_is_read_of_or_written_to_a_run_that_is_not_there(any_store: BaseRunLogStore, call: Any) -> None:
    with pytest.raises(exceptions.RunLogNotFoundError):
        call(any_store)
    with pytest.raises(exceptions.RunLogNotFoundError):
        any_store.get_run_log_by_id("run", full=True)


# Its parameters and configuration


@BOTH
def test_a_run_has_no_parameters_at_first(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    assert any_store.get_parameters("run") == {}


@WHOLE
def test_parameters_are_added_and_replaced(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.set_parameters("run", {"b": 1, "a": [1, {"deep": None}]})
    any_store.set_parameters("run", {"a": "new", "c": True})
    any_store.set_parameters("run", {})
    assert any_store.get_parameters("run") == {"b": 1, "a": "new", "c": True}
    assert any_store.get_run_log_by_id("run", full=True).parameters == {"b": 1, "a": "new", "c": True}


def test_parameters_come_in_the_order_they_were_first_set(store: DBStore) -> None:
    store.create_run_log("run")
    store.set_parameters("run", {"b": 1, "a": 2})
    store.set_parameters("run", {"c": 3, "b": 4})
    assert list(store.get_parameters("run")) == ["b", "a", "c"]


@pytest.mark.parametrize(("count", "size"), [(250, 10), (20, 100_000)])
def test_more_parameters_than_one_statement_takes_come_back_in_order(store: DBStore, count: int, size: int) -> None:
    store.create_run_log("run")
    for value in ("a" * size, "b" * size):
        store.set_parameters("run", {f"{number}": value for number in range(count)})
        parameters = store.get_parameters("run")
        assert list(parameters) == [f"{number}" for number in range(count)] and set(parameters.values()) == {value}


def test_a_stale_run_log_does_not_turn_back_parameters(store: DBStore) -> None:
    store.create_run_log("run")
    store.set_parameters("run", {"x": "old"})
    stale = store.get_run_log_by_id("run")
    store.set_parameters("run", {"x": "new"})
    stale.status = "SUCCESS"
    store.add_branch_log(stale, "run")
    store.update_run_log_status("run", "SUCCESS")
    store.set_run_config("run", {"tag": "t"})
    assert store.get_run_log_by_id("run").status == "SUCCESS"
    assert store.get_parameters("run") == {"x": "new"}


@BOTH
def test_the_run_config_is_added_to(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run", status="PROCESSING")
    any_store.set_run_config("run", {"executor": {"service_name": "local"}, "tag": ""})
    any_store.set_run_config("run", {"tag": "t"})
    assert any_store.get_run_config("run") == {"executor": {"service_name": "local"}, "tag": "t"}
    assert any_store.get_run_log_by_id("run").status == "PROCESSING"


@pytest.mark.parametrize("value", VALUES, ids=repr)
@BOTH
def test_a_value_comes_back_as_it_went_in(any_store: BaseRunLogStore, value: Any) -> None:
    any_store.create_run_log("run")
    any_store.set_parameters("run", {"x": value})
    any_store.add_step_log(step("a", user_defined_metrics={"x": value}), "run")
    assert repr(any_store.get_parameters("run")["x"]) == repr(value)
    assert repr(any_store.get_step_log("a", "run").user_defined_metrics["x"]) == repr(value)
    full = any_store.get_run_log_by_id("run", full=True)
    assert repr((full.parameters["x"], full.steps["a"].user_defined_metrics["x"])) == repr((value, value))


def test_values_that_are_set_together_come_back_as_they_went_in(store: DBStore) -> None:
    store.create_run_log("run")
    parameters = {f"parameter {number}": value for number, value in enumerate(VALUES)}
    store.set_parameters("run", parameters)
    assert repr(store.get_parameters("run")) == repr(parameters)


@BOTH
def test_not_a_number_stays_so(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.set_parameters("run", {"loss": math.nan})
    any_store.add_step_log(step("a", user_defined_metrics={"loss": math.nan}), "run")
    assert math.isnan(any_store.get_parameters("run")["loss"])
    assert math.isnan(any_store.get_step_log("a", "run").user_defined_metrics["loss"])


@BOTH
def test_a_parameter_may_be_large(any_store: BaseRunLogStore) -> None:
    large = "0123456789" * 2_000_000
    any_store.create_run_log("run")
    any_store.set_parameters("run", {"x": large})
    assert any_store.get_parameters("run") == {"x": large}


def test_what_json_cannot_hold_is_refused_by_name_and_nothing_is_written(store: DBStore) -> None:
    store.create_run_log("run")
    with pytest.raises(TypeError, match="Parameter 'model'.*object"):
        store.set_parameters("run", {"fine": 1, "model": object()})
    with pytest.raises(TypeError, match="name of a Parameter"):
        store.set_parameters("run", {"fine": 1, 2: "two"})
    assert store.get_parameters("run") == {}


@pytest.mark.parametrize("others", [{}, {"loss": math.nan, "unit": "\u20ac"}], ids=["alone", "beside others"])
def test_what_json_has_no_form_for_stands_in_a_step_as_pydantic_writes_it(
    store: DBStore, others: Dict[str, Any]
) -> None:
    store.create_run_log("run")
    at = datetime.datetime(2026, 1, 1, 12)
    store.add_step_log(step("a", user_defined_metrics={"at": at, "seen": {1}, **others}), "run")
    metrics = store.get_step_log("a", "run").user_defined_metrics
    assert (metrics["at"], metrics["seen"]) == ("2026-01-01T12:00:00", [1])
    with pytest.raises(TypeError, match="Step 'a' holds.*object"):
        store.add_step_log(step("a", user_defined_metrics={"model": object(), **others}), "run")


# Its steps and branches


@BOTH
def test_a_step_comes_back_as_it_was_added(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    full_step = nested_run_log().steps["load"]
    full_step.attempts.append(any_store.create_attempt_log())
    full_step.code_identities.append(any_store.create_code_identity())
    full_step.data_catalog.append(any_store.create_data_catalog("a.csv"))
    full_step.user_defined_metrics = {"loss": {"0": 0.5, "1": 0.25}}
    any_store.add_step_log(full_step, "run")
    assert any_store.get_step_log("load", "run").model_dump() == full_step.model_dump()


@BOTH
def test_a_step_that_changes_is_one_step(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    for status in ("PROCESSING", "SUCCESS"):
        any_store.add_step_log(step("a", status=status), "run")
    assert any_store.get_step_log("a", "run").status == "SUCCESS"
    assert list(any_store.get_run_log_by_id("run", full=True).steps) == ["a"]


def test_a_step_that_is_not_there_is_not_found(store: DBStore) -> None:
    store.create_run_log("run")
    with pytest.raises(exceptions.StepLogNotFoundError):
        store.get_step_log("a", "run")


def test_a_branch_that_is_not_there_is_not_found(store: DBStore) -> None:
    store.create_run_log("run")
    with pytest.raises(exceptions.BranchLogNotFoundError):
        store.get_branch_log("map.a", "run")


def test_a_step_of_a_branch_that_is_not_there_is_refused(store: DBStore) -> None:
    store.create_run_log("run")
    store.add_step_log(step("map"), "run")
    with pytest.raises(exceptions.BranchLogNotFoundError):
        store.add_step_log(step("map.a.work"), "run")
    assert list(store.get_run_log_by_id("run", full=True).steps) == ["map"]


@BOTH
def test_steps_come_in_the_order_they_were_first_added(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    for name in ("c", "a", "b", "a", "c"):
        any_store.add_step_log(step(name), "run")
    assert list(any_store.get_run_log_by_id("run", full=True).steps) == ["c", "a", "b"]


@BOTH
def test_branches_and_their_steps_find_their_places(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.add_step_log(step("map", step_type="map"), "run")
    for value in ("x", "y"):
        any_store.add_branch_log(any_store.create_branch_log(f"map.{value}"), "run")
    for value in ("y", "x"):
        any_store.add_step_log(step(f"map.{value}.work"), "run")
    branches = any_store.get_run_log_by_id("run", full=True).steps["map"].branches
    assert {name: list(branch.steps) for name, branch in branches.items()} == {
        "map.x": ["map.x.work"],
        "map.y": ["map.y.work"],
    }


@BOTH
def test_a_branch_changes_its_status(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.add_step_log(step("map"), "run")
    any_store.add_branch_log(any_store.create_branch_log("map.x"), "run")
    branch_log = any_store.get_branch_log("map.x", "run")
    branch_log.status = "SUCCESS"
    any_store.add_branch_log(branch_log, "run")
    assert any_store.get_branch_log("map.x", "run").status == "SUCCESS"


@BOTH
@pytest.mark.parametrize("no_name", ["", None])
def test_the_branch_without_a_name_is_the_run(any_store: BaseRunLogStore, no_name: Any) -> None:
    any_store.create_run_log("run")
    run_log = any_store.get_branch_log(no_name, "run")
    assert isinstance(run_log, RunLog)
    run_log.status = "FAIL"
    any_store.add_branch_log(run_log, "run")
    assert any_store.get_run_log_by_id("run").status == "FAIL"


@WHOLE
def test_a_step_is_added_with_the_branches_that_it_holds(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.add_step_log(nested_run_log().steps["map"], "run")
    full = any_store.get_run_log_by_id("run", full=True)
    assert full.steps["map"].model_dump() == nested_run_log().steps["map"].model_dump()


@pytest.mark.parametrize("value", ["jan.csv", "1.5", "a.b.c", ".", "..", "a.", ".a", "", "in/out", "100%", "\N{SNAKE}"])
def test_a_branch_is_named_by_any_value(store: DBStore, value: str) -> None:
    store.create_run_log("run")
    store.add_step_log(step("map", step_type="map"), "run")
    store.add_branch_log(store.create_branch_log(f"map.{value}"), "run")
    store.add_step_log(step(f"map.{value}.inner", step_type="map"), "run")
    store.add_branch_log(store.create_branch_log(f"map.{value}.inner.{value}"), "run")
    store.add_step_log(step(f"map.{value}.inner.{value}.work"), "run")
    outer = store.get_run_log_by_id("run", full=True).steps["map"].branches[f"map.{value}"]
    inner = outer.steps[f"map.{value}.inner"].branches[f"map.{value}.inner.{value}"]
    assert list(inner.steps) == [f"map.{value}.inner.{value}.work"]


def test_a_branch_is_not_taken_for_one_of_a_step_that_came_later(store: DBStore) -> None:
    """`map` over "a" and "a.b.c", with a node named b in each branch: map.a.b.c is not b's."""
    store.create_run_log("run")
    store.add_step_log(step("map", step_type="map"), "run")
    for value in ("a", "a.b.c"):
        store.add_branch_log(store.create_branch_log(f"map.{value}"), "run")
    for value in ("a", "a.b.c"):
        store.add_step_log(step(f"map.{value}.b", step_type="map"), "run")
    branches = store.get_run_log_by_id("run", full=True).steps["map"].branches
    assert {name: list(branch.steps) for name, branch in branches.items()} == {
        "map.a": ["map.a.b"],
        "map.a.b.c": ["map.a.b.c.b"],
    }


def test_no_step_is_lost_from_view_with_its_branch_or_parent_missing(store: DBStore, database: Any) -> None:
    store.put_run_log(nested_run_log())
    database.sql("DELETE FROM db_log WHERE attribute_key = 'map'")
    full = store.get_run_log_by_id("run", full=True)
    assert list(full.steps) == ["load", "map.jan.csv.work", "map.jan.csv.split", "map.1.5.work", "success"]


def test_names_are_exact(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    store.set_parameters("run", {name: f"parameter {name}" for name in ODD_NAMES})
    dotless = [name for name in ODD_NAMES if "." not in name]
    for name in dotless:
        store.add_step_log(step(name, message=f"step {name}"), "run")
    run_ids = [name[:240] for name in ODD_NAMES]  # which is the most that MariaDB takes
    for run_id in run_ids:
        store.create_run_log(run_id, tag=f"run {run_id}")
    assert store.get_parameters("run") == {name: f"parameter {name}" for name in ODD_NAMES}
    assert [store.get_step_log(name, "run").message for name in dotless] == [f"step {name}" for name in dotless]
    assert [store.get_run_log_by_id(run_id).tag for run_id in run_ids] == [f"run {run_id}" for run_id in run_ids]
    rows = database.sql("SELECT attribute_type, COUNT(*) FROM db_log WHERE run_id = 'run' GROUP BY attribute_type")
    assert dict(rows) == {"RunLog": 1, "Parameter": len(ODD_NAMES), "Step": len(dotless)}


def test_a_name_that_not_every_database_can_hold_is_refused_and_nothing_is_written(store: DBStore) -> None:
    store.create_run_log("run")
    with pytest.raises(TypeError, match=r"The name of a Parameter is a string without NUL, not 'x\\x00y'"):
        store.set_parameters("run", {"x": 1, "x\0y": 2})
    assert store.get_parameters("run") == {}


# How it is written


def test_the_table_holds_what_the_documentation_says(store: DBStore, database: Any) -> None:
    store.put_run_log(nested_run_log())
    rows = database.sql("SELECT attribute_type, attribute_key FROM db_log WHERE run_id = 'run' ORDER BY created_at")
    assert rows == [
        ("RunLog", "run_log"),
        ("Parameter", "b"),
        ("Parameter", "a"),
        ("Step", "load"),
        ("Step", "map"),
        ("Branch", "map.jan.csv"),
        ("Branch", "map.1.5"),
        ("Step", "map.jan.csv.work"),
        ("Step", "map.jan.csv.split"),
        ("Branch", "map.jan.csv.split.left"),
        ("Step", "map.jan.csv.split.left.a"),
        ("Step", "map.1.5.work"),
        ("Step", "success"),
    ]
    [(header,)] = database.sql("SELECT attribute_value FROM db_log WHERE attribute_type = 'RunLog'")
    [(mapped,)] = database.sql("SELECT attribute_value FROM db_log WHERE attribute_key = 'map'")
    [(parameter,)] = database.sql("SELECT attribute_value FROM db_log WHERE attribute_key = 'a'")
    assert '"steps"' not in header and '"parameters"' not in header
    assert '"branches"' not in mapped
    assert parameter == '{"nested": [1, null]}'


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.set_parameters("run", {"x": 1}),
        lambda store: store.set_parameters("run", {"x": 1, "y": 2}),
        lambda store: store.add_step_log(step("map.x.work"), "run"),
        lambda store: store.add_branch_log(branch("map.y"), "run"),
    ],
)
def test_what_was_refused_for_a_run_that_comes_to_be_at_that_moment_is_written_or_told(
    store: DBStore, database: Any, call: Any
) -> None:
    """Another process makes the run just after this one was told that there is none."""
    store.create_run_log("another")
    other = DBStore(connection_string=database.url)
    made = []

    def make(event: Any) -> None:
        if not made and "db_log" in event.sql and not store.table.database.in_transaction():
            made.append(True)
            other.put_run_log(
                RunLog(run_id="run", steps=branch("", step("map", branches={"map.x": branch("map.x")})).steps)
            )

    store.table.database.query_hooks.append(make)
    try:
        call(store)
    except exceptions.RunLogNotFoundError:
        return
    finally:
        store.table.database.query_hooks.clear()
        other.close()
    written = store.get_run_log_by_id("run", full=True)
    names = [*written.parameters, *written.steps["map"].branches, *written.steps["map"].branches["map.x"].steps]
    assert len(names) > 1

"""The behaviour that magnus documents for a run log store, and the guarantees of this store, on every database.

Magnus' own stores pass the same tests wherever they are correct. This verifies the tests themselves.
"""

import contextlib
import copy
import datetime
import inspect
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from conftest import SqliteFile, new_store
from logs import step
from magnus import exceptions
from magnus.datastore import BaseRunLogStore, BranchLog, RunLog, StepLog
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore

from magnus_peewee_store import DBStore, InvalidValueError, RunLogStoreError, WrongTableError, fragments, runs

BOTH_ORACLES = pytest.mark.oracle("file-system", "chunked-fs")
FILE_SYSTEM_ORACLE = pytest.mark.oracle("file-system")

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
    """Return a run log with a map of two branches. One branch contains a parallel step."""
    left = branch("map.jan.csv.split.left", step("map.jan.csv.split.left.a"))
    split = step("map.jan.csv.split", step_type="parallel", branches={left.internal_name: left})
    january = branch("map.jan.csv", step("map.jan.csv.work"), split)
    other = branch("map.1.5", step("map.1.5.work"))
    map_step = step("map", step_type="map", branches={each.internal_name: each for each in (january, other)})
    return RunLog(
        run_id="run",
        status="SUCCESS",
        tag="nightly",
        parameters={"b": 1, "a": {"nested": [1, None]}},
        run_config={"executor": {"service_name": "local"}},
        steps=branch("", step("load", status="SUCCESS"), map_step, step("success")).steps,
    )


# Run logs


@BOTH_ORACLES
def test_create_run_log_stores_its_arguments(any_store: BaseRunLogStore) -> None:
    created = any_store.create_run_log(
        "run", dag_hash="4a2", use_cached=True, tag="t", original_run_id="old", status="S"
    )
    assert created == any_store.get_run_log_by_id("run")
    assert created == RunLog(run_id="run", dag_hash="4a2", use_cached=True, tag="t", original_run_id="old", status="S")


@BOTH_ORACLES
def test_create_run_log_twice_raises(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run", tag="first")
    with pytest.raises(exceptions.RunLogExistsError):
        any_store.create_run_log("run", tag="second")
    assert any_store.get_run_log_by_id("run").tag == "first"


ERRORS = (
    RunLogStoreError,
    exceptions.RunLogNotFoundError,
    exceptions.StepLogNotFoundError,
    exceptions.BranchLogNotFoundError,
)


def test_errors_survive_a_worker_pool(store: DBStore) -> None:
    store.create_run_log("run")
    for call in (
        lambda: store.create_run_log("run"),
        lambda: store.get_run_log_by_id("other"),
        lambda: store.get_step_log("a", "run"),
        lambda: store.add_step_log(step("a.b.c"), "run"),
        lambda: runs.find_run(store, "other"),
        lambda: store.create_run_log("a\0b"),
    ):
        with pytest.raises(ERRORS) as exc_info:
            call()
        other = pickle.loads(pickle.dumps(exc_info.value))
        assert type(other) is exc_info.type and str(other) == str(exc_info.value)
        assert vars(other) == vars(exc_info.value)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda store: pickle.loads(pickle.dumps(store))])
def test_copy_of_a_store_has_its_configuration_alone(store: DBStore, copied: Callable[[DBStore], DBStore]) -> None:
    store.create_run_log("run")
    store.set_secrets_handler(object())
    with contextlib.closing(copied(store)) as other:
        assert other.connection_string == store.connection_string and other.secrets_handler is None
        assert "database" not in vars(other) and other.get_run_log_by_id("run").run_id == "run"


def test_write_that_the_database_swallows_raises(sqlite_file: SqliteFile) -> None:
    with new_store(sqlite_file.url) as store:
        store.create_run_log("run")
        sqlite_file.sql("CREATE TRIGGER swallow BEFORE INSERT ON db_log BEGIN SELECT RAISE(IGNORE); END")
        with pytest.raises(WrongTableError, match="Look for a trigger"):
            store.set_parameters("run", {"x": 1})


@BOTH_ORACLES
@pytest.mark.parametrize("full", [False, True])
def test_get_missing_run_log_raises(any_store: BaseRunLogStore, full: bool) -> None:
    any_store.create_run_log("another")
    with pytest.raises(exceptions.RunLogNotFoundError):
        any_store.get_run_log_by_id("run", full=full)


def test_errors_name_the_run_step_or_branch(store: DBStore) -> None:
    with pytest.raises(exceptions.RunLogNotFoundError, match="Run id for run is not found"):
        store.get_run_log_by_id("run")
    store.create_run_log("run")
    with pytest.raises(exceptions.RunLogExistsError, match="A run with the id 'run' exists already"):
        store.create_run_log("run")
    with pytest.raises(exceptions.StepLogNotFoundError, match="Step log for a is not found"):
        store.get_step_log("a", "run")
    with pytest.raises(exceptions.BranchLogNotFoundError, match="Branch log for a.b is not found"):
        store.add_step_log(step("a.b.c"), "run")


@FILE_SYSTEM_ORACLE
def test_run_log_round_trip(any_store: BaseRunLogStore) -> None:
    any_store.put_run_log(nested_run_log())
    assert any_store.get_run_log_by_id("run", full=True).model_dump() == nested_run_log().model_dump()


def test_run_log_without_steps_has_parameters(store: DBStore) -> None:
    store.put_run_log(nested_run_log())
    bare = store.get_run_log_by_id("run")
    assert bare.parameters == nested_run_log().parameters
    assert not bare.steps


def test_put_run_log_deletes_nothing(store: DBStore) -> None:
    store.put_run_log(nested_run_log())
    store.put_run_log(RunLog(run_id="run", status="FAIL", parameters={"c": 3}))
    run_log = store.get_run_log_by_id("run", full=True)
    assert run_log.status == "FAIL"
    assert run_log.parameters == {**nested_run_log().parameters, "c": 3}
    assert list(run_log.steps) == ["load", "map", "success"]


@BOTH_ORACLES
def test_update_run_log_status(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run", tag="t")
    any_store.update_run_log_status("run", "SUCCESS")
    run_log = any_store.get_run_log_by_id("run")
    assert (run_log.status, run_log.tag) == ("SUCCESS", "t")


@BOTH_ORACLES
def test_runs_are_independent(any_store: BaseRunLogStore) -> None:
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
@FILE_SYSTEM_ORACLE
def test_calls_on_missing_run_raise(any_store: BaseRunLogStore, call: Any) -> None:
    with pytest.raises(exceptions.RunLogNotFoundError):
        call(any_store)
    with pytest.raises(exceptions.RunLogNotFoundError):
        any_store.get_run_log_by_id("run", full=True)


# Parameters and run configs


@BOTH_ORACLES
def test_new_run_has_no_parameters(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    assert any_store.get_parameters("run") == {}


@FILE_SYSTEM_ORACLE
def test_set_parameters_adds_and_replaces(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.set_parameters("run", {"b": 1, "a": [1, {"deep": None}]})
    any_store.set_parameters("run", {"a": "new", "c": True})
    any_store.set_parameters("run", {})
    assert any_store.get_parameters("run") == {"b": 1, "a": "new", "c": True}
    assert any_store.get_run_log_by_id("run", full=True).parameters == {"b": 1, "a": "new", "c": True}


def test_parameters_keep_insertion_order(store: DBStore) -> None:
    store.create_run_log("run")
    store.set_parameters("run", {"b": 1, "a": 2})
    store.set_parameters("run", {"c": 3, "b": 4})
    assert list(store.get_parameters("run")) == ["b", "a", "c"]


@pytest.mark.parametrize(("count", "size"), [(250, 10), (20, 100_000)])
def test_parameters_in_several_batches_keep_insertion_order(store: DBStore, count: int, size: int) -> None:
    store.create_run_log("run")
    for value in ("a" * size, "b" * size):
        store.set_parameters("run", {f"{number}": value for number in range(count)})
        parameters = store.get_parameters("run")
        assert list(parameters) == [f"{number}" for number in range(count)] and set(parameters.values()) == {value}


def test_stale_run_log_does_not_overwrite_parameters(store: DBStore) -> None:
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


@BOTH_ORACLES
def test_set_run_config_merges(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run", status="PROCESSING")
    any_store.set_run_config("run", {"executor": {"service_name": "local"}, "tag": ""})
    any_store.set_run_config("run", {"tag": "t"})
    assert any_store.get_run_config("run") == {"executor": {"service_name": "local"}, "tag": "t"}
    assert any_store.get_run_log_by_id("run").status == "PROCESSING"


@pytest.mark.parametrize("value", VALUES, ids=repr)
@BOTH_ORACLES
def test_value_round_trip(any_store: BaseRunLogStore, value: Any) -> None:
    any_store.create_run_log("run")
    any_store.set_parameters("run", {"x": value})
    any_store.add_step_log(step("a", user_defined_metrics={"x": value}), "run")
    assert repr(any_store.get_parameters("run")["x"]) == repr(value)
    assert repr(any_store.get_step_log("a", "run").user_defined_metrics["x"]) == repr(value)
    full = any_store.get_run_log_by_id("run", full=True)
    assert repr((full.parameters["x"], full.steps["a"].user_defined_metrics["x"])) == repr((value, value))


def test_batch_of_values_round_trip(store: DBStore) -> None:
    store.create_run_log("run")
    parameters = {f"parameter {number}": value for number, value in enumerate(VALUES)}
    store.set_parameters("run", parameters)
    assert repr(store.get_parameters("run")) == repr(parameters)


@BOTH_ORACLES
def test_nan_round_trip(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.set_parameters("run", {"loss": math.nan})
    any_store.add_step_log(step("a", user_defined_metrics={"loss": math.nan}), "run")
    assert math.isnan(any_store.get_parameters("run")["loss"])
    assert math.isnan(any_store.get_step_log("a", "run").user_defined_metrics["loss"])


@BOTH_ORACLES
def test_large_parameter_round_trip(any_store: BaseRunLogStore) -> None:
    large = "0123456789" * 2_000_000
    any_store.create_run_log("run")
    any_store.set_parameters("run", {"x": large})
    assert any_store.get_parameters("run") == {"x": large}


def test_unserializable_parameter_raises_and_writes_nothing(store: DBStore) -> None:
    store.create_run_log("run")
    with pytest.raises(TypeError, match="Parameter 'model'.*object"):
        store.set_parameters("run", {"fine": 1, "model": object()})
    with pytest.raises(TypeError, match="name of a Parameter"):
        store.set_parameters("run", {"fine": 1, 2: "two"})
    assert store.get_parameters("run") == {}


@pytest.mark.parametrize("others", [{}, {"loss": math.nan, "unit": "\u20ac"}], ids=["alone", "with others"])
def test_step_metrics_are_serialized_as_pydantic_does(store: DBStore, others: Dict[str, Any]) -> None:
    store.create_run_log("run")
    at = datetime.datetime(2026, 1, 1, 12)
    store.add_step_log(step("a", user_defined_metrics={"at": at, "seen": {1}, **others}), "run")
    metrics = store.get_step_log("a", "run").user_defined_metrics
    assert (metrics["at"], metrics["seen"]) == ("2026-01-01T12:00:00", [1])
    with pytest.raises(TypeError, match="Step 'a' contains.*object"):
        store.add_step_log(step("a", user_defined_metrics={"model": object(), **others}), "run")


# Steps and branches


@BOTH_ORACLES
def test_step_log_round_trip(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    full_step = nested_run_log().steps["load"]
    full_step.attempts.append(any_store.create_attempt_log())
    full_step.code_identities.append(any_store.create_code_identity())
    full_step.data_catalog.append(any_store.create_data_catalog("a.csv"))
    full_step.user_defined_metrics = {"loss": {"0": 0.5, "1": 0.25}}
    any_store.add_step_log(full_step, "run")
    assert any_store.get_step_log("load", "run").model_dump() == full_step.model_dump()


@BOTH_ORACLES
def test_add_step_log_twice_updates_the_step(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    for status in ("PROCESSING", "SUCCESS"):
        any_store.add_step_log(step("a", status=status), "run")
    assert any_store.get_step_log("a", "run").status == "SUCCESS"
    assert list(any_store.get_run_log_by_id("run", full=True).steps) == ["a"]


def test_get_missing_step_log_raises(store: DBStore) -> None:
    store.create_run_log("run")
    with pytest.raises(exceptions.StepLogNotFoundError):
        store.get_step_log("a", "run")


def test_get_missing_branch_log_raises(store: DBStore) -> None:
    store.create_run_log("run")
    with pytest.raises(exceptions.BranchLogNotFoundError):
        store.get_branch_log("map.a", "run")


def test_add_step_log_in_missing_branch_raises(store: DBStore) -> None:
    store.create_run_log("run")
    store.add_step_log(step("map"), "run")
    with pytest.raises(exceptions.BranchLogNotFoundError):
        store.add_step_log(step("map.a.work"), "run")
    assert list(store.get_run_log_by_id("run", full=True).steps) == ["map"]


@BOTH_ORACLES
def test_steps_keep_insertion_order(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    for name in ("c", "a", "b", "a", "c"):
        any_store.add_step_log(step(name), "run")
    assert list(any_store.get_run_log_by_id("run", full=True).steps) == ["c", "a", "b"]


@BOTH_ORACLES
def test_full_run_log_nests_branches_and_steps(any_store: BaseRunLogStore) -> None:
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


@BOTH_ORACLES
def test_add_branch_log_twice_updates_the_branch(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.add_step_log(step("map"), "run")
    any_store.add_branch_log(any_store.create_branch_log("map.x"), "run")
    branch_log = any_store.get_branch_log("map.x", "run")
    branch_log.status = "SUCCESS"
    any_store.add_branch_log(branch_log, "run")
    assert any_store.get_branch_log("map.x", "run").status == "SUCCESS"


@BOTH_ORACLES
@pytest.mark.parametrize("no_name", ["", None])
def test_branch_without_name_is_the_run_log(any_store: BaseRunLogStore, no_name: Any) -> None:
    any_store.create_run_log("run")
    run_log = any_store.get_branch_log(no_name, "run")
    assert isinstance(run_log, RunLog)
    run_log.status = "FAIL"
    any_store.add_branch_log(run_log, "run")
    assert any_store.get_run_log_by_id("run").status == "FAIL"


@FILE_SYSTEM_ORACLE
def test_add_step_log_writes_its_branches(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.add_step_log(nested_run_log().steps["map"], "run")
    full = any_store.get_run_log_by_id("run", full=True)
    assert full.steps["map"].model_dump() == nested_run_log().steps["map"].model_dump()


@pytest.mark.parametrize("value", ["jan.csv", "1.5", "a.b.c", ".", "..", "a.", ".a", "", "in/out", "100%", "\N{SNAKE}"])
def test_branch_name_contains_any_value(store: DBStore, value: str) -> None:
    store.create_run_log("run")
    store.add_step_log(step("map", step_type="map"), "run")
    store.add_branch_log(store.create_branch_log(f"map.{value}"), "run")
    store.add_step_log(step(f"map.{value}.inner", step_type="map"), "run")
    store.add_branch_log(store.create_branch_log(f"map.{value}.inner.{value}"), "run")
    store.add_step_log(step(f"map.{value}.inner.{value}.work"), "run")
    outer = store.get_run_log_by_id("run", full=True).steps["map"].branches[f"map.{value}"]
    inner = outer.steps[f"map.{value}.inner"].branches[f"map.{value}.inner.{value}"]
    assert list(inner.steps) == [f"map.{value}.inner.{value}.work"]


def test_branch_is_not_attached_to_a_later_step(store: DBStore) -> None:
    """A map over "a" and "a.b.c" has a node b in each branch. Branch map.a.b.c is not part of step map.a.b."""
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


def test_steps_without_parent_row_are_returned(store: DBStore, database: Any) -> None:
    store.put_run_log(nested_run_log())
    database.sql("DELETE FROM db_log WHERE attribute_key = 'map'")
    full = store.get_run_log_by_id("run", full=True)
    assert list(full.steps) == ["load", "map.jan.csv.work", "map.jan.csv.split", "map.1.5.work", "success"]


def test_similar_names_stay_distinct(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    store.set_parameters("run", {name: f"parameter {name}" for name in ODD_NAMES})
    dotless_names = [name for name in ODD_NAMES if "." not in name]
    for name in dotless_names:
        store.add_step_log(step(name, message=f"step {name}"), "run")
    run_ids = [name[:240] for name in ODD_NAMES]  # In MySQL and MariaDB, run_id is VARCHAR(240)
    for run_id in run_ids:
        store.create_run_log(run_id, tag=f"run {run_id}")
    assert store.get_parameters("run") == {name: f"parameter {name}" for name in ODD_NAMES}
    assert [store.get_step_log(name, "run").message for name in dotless_names] == [
        f"step {name}" for name in dotless_names
    ]
    assert [store.get_run_log_by_id(run_id).tag for run_id in run_ids] == [f"run {run_id}" for run_id in run_ids]
    rows = database.sql("SELECT attribute_type, COUNT(*) FROM db_log WHERE run_id = 'run' GROUP BY attribute_type")
    assert dict(rows) == {"RunLog": 1, "Parameter": len(ODD_NAMES), "Step": len(dotless_names)}


def test_name_with_nul_raises_and_writes_nothing(store: DBStore) -> None:
    store.create_run_log("run")
    with pytest.raises(TypeError, match=r"The name of a Parameter must be text without NUL .*, not 'x\\x00y'"):
        store.set_parameters("run", {"x": 1, "x\0y": 2})
    assert store.get_parameters("run") == {}


# Rows


def test_rows_match_the_documentation(store: DBStore, database: Any) -> None:
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
    [(map_step,)] = database.sql("SELECT attribute_value FROM db_log WHERE attribute_key = 'map'")
    [(parameter,)] = database.sql("SELECT attribute_value FROM db_log WHERE attribute_key = 'a'")
    assert '"steps"' not in header and '"parameters"' not in header
    assert '"branches"' not in map_step
    assert parameter == '{"nested": [1, null]}'


def test_write_of_an_equal_value_is_no_missing_run(store: DBStore, database: Any) -> None:
    """Another process changes the value just after MySQL has counted no row, because it had the value already."""
    store.create_run_log("run")
    row = ("Parameter", "x", "1")
    store.table.upsert("run", [row])
    other = DBStore(connection_string=database.url)
    changed = []

    def change(event: Any) -> None:
        if not changed and event.sql.startswith("SELECT"):
            changed.append(other.table.upsert("run", [("Parameter", "x", "2")]))

    store.database.query_hooks.append(change)
    try:
        assert store.table.upsert("run", [row], requires=[fragments.HEADER])
        store.get_parameters("run")
    finally:
        store.database.query_hooks.clear()
        other.close()
    assert changed == [True]


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.set_parameters("run", {"x": 1}),
        lambda store: store.set_parameters("run", {"x": 1, "y": 2}),
        lambda store: store.add_step_log(step("map.x.work"), "run"),
        lambda store: store.add_branch_log(branch("map.y"), "run"),
    ],
)
def test_write_to_concurrently_created_run_succeeds_or_raises(store: DBStore, database: Any, call: Any) -> None:
    """Another process creates the run just after this process finds no run."""
    store.create_run_log("another")
    other = DBStore(connection_string=database.url)
    created = []

    def create_run(event: Any) -> None:
        if not created and "db_log" in event.sql and not store.database.in_transaction():
            created.append(True)
            other.put_run_log(
                RunLog(run_id="run", steps=branch("", step("map", branches={"map.x": branch("map.x")})).steps)
            )

    store.database.query_hooks.append(create_run)
    try:
        call(store)
    except exceptions.RunLogNotFoundError:
        return
    finally:
        store.database.query_hooks.clear()
        other.close()
    written = store.get_run_log_by_id("run", full=True)
    names = [*written.parameters, *written.steps["map"].branches, *written.steps["map"].branches["map.x"].steps]
    assert len(names) > 1


def test_defaults_of_create_run_log_are_those_of_magnus(store: DBStore, tmp_path: Path) -> None:
    own, expected = (inspect.signature(each.create_run_log).parameters for each in (DBStore, BaseRunLogStore))
    assert {name: each.default for name, each in own.items()} == {name: each.default for name, each in expected.items()}
    assert store.create_run_log("run") == FileSystemRunLogstore(log_folder=str(tmp_path)).create_run_log("run")


@pytest.mark.parametrize("text", ["a\0b", "\ud800", 1])
def test_has_refuses_texts_that_no_database_stores(store: DBStore, text: Any) -> None:
    store.create_run_log("run")
    for arguments in ((text,), ("run", ("Step",), text)):
        with pytest.raises(InvalidValueError):
            store.table.has(*arguments)

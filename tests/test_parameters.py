"""Test that a step writes the parameters that it changed, and not those that it only read."""

import json
import math
import threading
from typing import Any, Callable, Dict, Iterator

import pytest
from conftest import AnyDatabase, SqliteFile
from magnus.datastore import BaseRunLogStore, RunLog

from magnus_peewee_store import DBStore, runs
from magnus_peewee_store import store as store_module


@pytest.fixture
def other(database: AnyDatabase, store: DBStore) -> Iterator[DBStore]:
    """Return a second store on the database, as another process has it."""
    store.create_run_log("run")
    other = DBStore(connection_string=database.url)
    yield other
    other.close()


def in_thread(call: Callable[[], Any]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_unchanged_parameters_do_not_undo_others(store: DBStore, other: DBStore) -> None:
    store.set_parameters("run", {"a": 0, "b": 0})
    read, also_read = store.get_parameters("run"), other.get_parameters("run")
    store.set_parameters("run", {**read, "a": 1})
    other.set_parameters("run", {**also_read, "b": 1, "c": 1})
    assert store.get_parameters("run") == {"a": 1, "b": 1, "c": 1}


def test_threads_read_independently(store: DBStore, other: DBStore) -> None:
    store.set_parameters("run", {"a": 0, "b": 0})
    read = store.get_parameters("run")
    in_thread(lambda: store.set_parameters("run", {**store.get_parameters("run"), "b": 1}))
    in_thread(lambda: store.set_parameters("run", {"a": 0, "b": 2}))  # This thread has read nothing.
    store.set_parameters("run", {**read, "a": 1})
    assert store.get_parameters("run") == {"a": 1, "b": 2}


def test_runs_are_read_independently(store: DBStore, other: DBStore) -> None:
    store.create_run_log("second")
    for run_id in ("run", "second"):
        store.set_parameters(run_id, {"a": 0, "b": 0})
    reads = {run_id: store.get_parameters(run_id) for run_id in ("run", "second")}
    for run_id, read in reads.items():
        other.set_parameters(run_id, {"b": 1})
        store.set_parameters(run_id, {**read, "a": 1})
        assert store.get_parameters(run_id) == {"a": 1, "b": 1}


def test_fewer_names_are_written_as_they_are(store: DBStore, other: DBStore) -> None:
    store.set_parameters("run", {"a": 0, "b": 0})
    store.get_parameters("run")
    other.set_parameters("run", {"a": 1})
    store.set_parameters("run", {"a": 0})
    assert store.get_parameters("run") == {"a": 0, "b": 0}


def test_names_in_lower_case_cover_what_was_read(store: DBStore, other: DBStore) -> None:
    """magnus returns the parameter `Rows` as `rows`, a new one."""
    store.set_parameters("run", {"Rows": 0, "b": 0})
    store.get_parameters("run")
    other.set_parameters("run", {"b": 1})
    store.set_parameters("run", {"rows": 0, "b": 0})
    assert store.get_parameters("run") == {"Rows": 0, "b": 1, "rows": 0}


@pytest.mark.parametrize(
    ("read", "same", "different"),
    [
        (1, 1, [1.0, True, "1", None]),
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, [{"a": 1, "b": (2, 3)}, {"a": 1}]),
        ([1, 2], (1, 2), [[2, 1]]),
        (math.nan, math.nan, [math.inf]),
        ("ä", "ä", ["a"]),
        (None, None, [False, "null"]),
    ],
)
def test_values_are_compared_as_json(sqlite_file: SqliteFile, read: Any, same: Any, different: Any) -> None:
    store, other = (DBStore(connection_string=sqlite_file.url) for _ in range(2))
    store.create_run_log("run")
    for value, is_written in [(same, False), *((each, True) for each in different)]:
        store.set_parameters("run", {"x": read})
        store.get_parameters("run")
        other.set_parameters("run", {"x": "set by another step"})
        store.set_parameters("run", {"x": value})
        expected = json.dumps(value if is_written else "set by another step")
        assert json.dumps(store.get_parameters("run")["x"]) == expected
    store.close()
    other.close()


def test_changed_values_of_what_was_read_are_compared(sqlite_file: SqliteFile) -> None:
    """A step may change a list in place."""
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run")
    store.set_parameters("run", {"x": [1]})
    read = store.get_parameters("run")
    read["x"].append(2)
    store.set_parameters("run", read)
    assert store.get_parameters("run") == {"x": [1, 2]}
    store.close()


Write = Callable[[BaseRunLogStore, Dict[str, Any]], None]
WRITES: Dict[str, Write] = {
    "set_parameters": lambda store, parameters: store.set_parameters("run", parameters),
    "put_run_log": lambda store, parameters: store.put_run_log(RunLog(run_id="run", parameters=parameters)),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.oracle("file-system")
def test_direct_calls_write_what_they_say(any_store: BaseRunLogStore, write: Write) -> None:
    any_store.create_run_log("run")
    for value in (0, 1, 0):
        any_store.set_parameters("run", {"x": value})
    assert any_store.get_parameters("run") == {"x": 0}
    write(any_store, {"x": 1})
    any_store.set_parameters("run", {"x": 0})
    assert any_store.get_parameters("run") == {"x": 0}


@pytest.mark.oracle("file-system")
def test_steps_set_a_parameter_back(any_store: BaseRunLogStore) -> None:
    any_store.create_run_log("run")
    any_store.set_parameters("run", {"x": 0, "y": "same"})
    for value in (1, 0):
        any_store.set_parameters("run", {**any_store.get_parameters("run"), "x": value})
    assert any_store.get_parameters("run") == {"x": 0, "y": "same"}


def test_new_run_with_the_id_of_a_deleted_one(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run")
    store.set_parameters("run", {"x": 0})
    store.get_parameters("run")
    assert list(runs.delete_runs(store, ["run"])) == [2]
    store.create_run_log("run")
    store.set_parameters("run", {"x": 0})
    assert store.get_parameters("run") == {"x": 0}
    store.close()


def test_memory_of_reads_is_limited(sqlite_file: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_READ_RUNS", 3)
    store = DBStore(connection_string=sqlite_file.url)
    for number in range(10):
        store.create_run_log(f"run {number}")
        store.get_parameters(f"run {number}")
    assert list(store._read_parameters._by_run) == ["run 7", "run 8", "run 9"]
    store.close()

"""Concurrent writers, killed processes, forked processes and clock skew."""

import datetime
import gc
import itertools
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from typing import Any, Callable, List

import pytest
from concurrency import FORKSERVER, run_in_processes
from conftest import AnyDatabase, SqliteFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs import step
from magnus import exceptions
from magnus.datastore import BranchLog, RunLog

from magnus_peewee_store import DBStore
from magnus_peewee_store.db import schema, sqlite, table, url

PROCESS_COUNT = 8


# Concurrent processes


def write_branch(number: int, url: str) -> None:
    """Write a branch with its steps, as a pod of a map does, and keys that all processes write."""
    store = DBStore(connection_string=url)
    store.add_branch_log(BranchLog(internal_name=f"map.{number}"), "run")
    for attempt in range(5):
        name = f"map.{number}.step {attempt}"
        store.add_step_log(step(name, status="PROCESSING"), "run")
        step_log = store.get_step_log(name, "run")
        store.set_parameters("run", {"shared": number, f"own {number} {attempt}": [number, attempt]})
        step_log.status = "SUCCESS"
        store.add_step_log(step_log, "run")
        store.set_run_config("run", {f"seen by {number}": attempt})
    store.update_run_log_status("run", "SUCCESS")


def assert_branches_complete(run_log: RunLog) -> None:
    branches = run_log.steps["map"].branches
    assert set(branches) == {f"map.{number}" for number in range(PROCESS_COUNT)}
    for name, branch in branches.items():
        assert {each: log.status for each, log in branch.steps.items()} == {
            f"{name}.step {attempt}": "SUCCESS" for attempt in range(5)
        }
    own = {f"own {number} {attempt}": [number, attempt] for number in range(PROCESS_COUNT) for attempt in range(5)}
    assert run_log.parameters == {**own, "shared": run_log.parameters["shared"]}
    assert run_log.run_config == {f"seen by {number}": 4 for number in range(PROCESS_COUNT)}
    assert run_log.status == "SUCCESS"


def test_concurrent_writers_lose_and_duplicate_nothing(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    store.add_step_log(step("map", step_type="map"), "run")
    run_in_processes(PROCESS_COUNT, write_branch, database.url)

    run_log = store.get_run_log_by_id("run", full=True)
    assert_branches_complete(run_log)
    rows = database.sql("SELECT attribute_type, attribute_key FROM db_log WHERE run_id = 'run'")
    assert len(rows) == len(set(rows)) == 2 + PROCESS_COUNT + PROCESS_COUNT * 5 * 2 + 1


def create_run(number: int, url: str) -> bool:
    try:
        DBStore(connection_string=url).create_run_log("run", tag=str(number))
        return True
    except exceptions.RunLogExistsError:
        return False


def test_concurrent_create_run_log_succeeds_once(store: DBStore, database: Any) -> None:
    created = run_in_processes(PROCESS_COUNT, create_run, database.url)
    assert created.count(True) == 1
    assert store.get_run_log_by_id("run").tag == str(created.index(True))


def set_same_parameters(number: int, url: str) -> None:
    DBStore(connection_string=url).set_parameters("run", {f"p{each}": number for each in range(30)})


def test_concurrent_set_parameters_is_atomic(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    run_in_processes(PROCESS_COUNT, set_same_parameters, database.url)
    parameters = store.get_parameters("run")
    assert len(parameters) == 30 and len(set(parameters.values())) == 1


def test_locked_new_database_is_retried(sqlite_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite reports 'database is locked' without waiting if a file is switched to WAL during another write."""
    store = DBStore(connection_string=sqlite_file.url)
    other = sqlite3.connect(str(sqlite_file.path), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waits: List[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr(sqlite.time, "sleep", sleep)
    store.create_run_log("run")
    assert len(waits) == 3
    assert store.database.journal_mode == "wal"
    other.close()


def test_table_and_indexes_become_visible_together(sqlite_file: Any) -> None:
    database = sqlite_file
    backend = url.make_database(database.url)
    visible_counts = []
    backend.query_hooks.append(
        lambda _: visible_counts.append(database.sql("SELECT COUNT(*) FROM sqlite_master")[0][0])
    )
    backend.retry(schema.schema_of(backend).create)
    backend.close()
    assert len(visible_counts) >= 3 and set(visible_counts) == {0}
    assert database.sql("SELECT COUNT(*) FROM sqlite_master") == [(1 + len(schema.INDEXES),)]


def put_versions(url: str, stop: Any) -> None:
    store = DBStore(connection_string=url)
    for version in itertools.count(1):
        if stop.is_set():
            return
        steps = {f"s{each}": step(f"s{each}", message=str(version)) for each in range(20)}
        store.put_run_log(RunLog(run_id="run", tag=str(version), parameters={"x": str(version)}, steps=steps))


def version_of(run_log: RunLog) -> int:
    versions = {run_log.tag, *run_log.parameters.values(), *(each.message for each in run_log.steps.values())}
    assert len(versions) == 1, versions
    return int(versions.pop())


def test_reader_never_sees_partial_run_log(store: DBStore, database: Any) -> None:
    store.put_run_log(RunLog(run_id="run", tag="0", parameters={"x": "0"}))
    stop = FORKSERVER.Event()
    writers = [FORKSERVER.Process(target=put_versions, args=(database.url, stop)) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        seen = {version_of(store.get_run_log_by_id("run", full=True)) for _ in range(300)}
        while len(seen) < 5:
            seen.add(version_of(store.get_run_log_by_id("run", full=True)))
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def test_threads_share_a_store(store: DBStore) -> None:
    store.create_run_log("run")
    errors: List[BaseException] = []

    def work(number: int) -> None:
        try:
            for attempt in range(10):
                store.add_step_log(step(f"s{number}-{attempt}"), "run")
                store.set_parameters("run", {"a": number, "b": number})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(store.get_run_log_by_id("run", full=True).steps) == 80
    assert len(set(store.get_parameters("run").values())) == 1


# Killed processes


def write_until_killed(url: str, acknowledged: Any) -> None:
    store = DBStore(connection_string=url)
    for number in itertools.count():
        store.add_step_log(step(f"s{number}", user_defined_metrics={"padding": "x" * 20_000}), "run")
        acknowledged.send(number)


def put_until_killed(url: str, acknowledged: Any) -> None:
    store = DBStore(connection_string=url)
    for number in itertools.count(1):
        steps = {f"s{each}": step(f"s{each}", message=str(number)) for each in range(20)}
        store.put_run_log(RunLog(run_id="run", tag=str(number), parameters={"x": str(number)}, steps=steps))
        acknowledged.send(number)


def kill_during(work: Callable[..., None], url: str, after: int) -> int:
    """Kill a process once it has acknowledged write `after`. Return the number of the last acknowledged write."""
    receiving, sending = FORKSERVER.Pipe(duplex=False)
    process = FORKSERVER.Process(target=work, args=(url, sending))
    process.start()
    sending.close()
    last = 0
    try:
        while last < after:
            last = receiving.recv()
        os.kill(process.pid, signal.SIGKILL)
        while True:
            last = receiving.recv()
    except EOFError:
        process.join()
        assert process.exitcode == -signal.SIGKILL
        return last


def test_acknowledged_writes_survive_kill(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    for _ in range(8):
        last = kill_during(write_until_killed, database.url, after=random.randrange(1, 15))
        steps = store.get_run_log_by_id("run", full=True).steps
        assert [f"s{number}" for number in range(last + 1)] == list(steps)[: last + 1]
        if isinstance(database, SqliteFile):
            assert database.sql("PRAGMA integrity_check") == [("ok",)]
        database.sql("DELETE FROM db_log WHERE attribute_type = 'Step'")


def test_killed_process_leaves_no_partial_run_log(store: DBStore, database: Any) -> None:
    for _ in range(8):
        last = kill_during(put_until_killed, database.url, after=random.randrange(1, 15))
        assert version_of(store.get_run_log_by_id("run", full=True)) >= last
        database.sql("DELETE FROM db_log")


# Forked processes


def use_store(store: DBStore) -> None:
    for number in range(30):
        store.add_step_log(step(f"child {number}"), "run")
        assert store.get_step_log(f"child {number}", "run")


def close_store(store: DBStore) -> None:
    store.close()


def close_database(store: DBStore) -> None:
    store.database.close()


def drop_store(store: DBStore) -> None:
    store.__pydantic_private__.clear()
    gc.collect()


def exit_process(store: DBStore) -> None:
    sys.exit(0)


@pytest.mark.parametrize("child", [use_store, close_store, close_database, drop_store, exit_process])
def test_forked_child_does_not_break_parent(store: DBStore, child: Callable[[DBStore], None]) -> None:
    store.create_run_log("run")
    inherited = store.database.connection()
    process = multiprocessing.get_context("fork").Process(target=child, args=(store,))
    process.start()
    for number in range(30):
        store.add_step_log(step(f"parent {number}"), "run")
    process.join()
    assert process.exitcode == 0
    store.set_parameters("run", {"x": 1})
    assert store.database.connection() is inherited
    names = list(store.get_run_log_by_id("run", full=True).steps)
    assert [name for name in names if name.startswith("parent")] == [f"parent {number}" for number in range(30)]
    assert len(names) == (60 if child is use_store else 30)


OS_FORK_SCRIPT = """
import os, sys
from magnus.datastore import StepLog
from magnus_peewee_store import DBStore

store = DBStore(connection_string=sys.argv[1])
store.create_run_log("run")
child = os.fork()
if not child:
    sys.exit()  # shuts down the interpreter, which frees every object
assert os.waitpid(child, 0)[1] == 0
store.database.retry_timeout = 0
store.add_step_log(StepLog(name="a", internal_name="a"), "run")
"""


def test_interpreter_exit_in_forked_child_does_not_break_parent(database: AnyDatabase) -> None:
    subprocess.run([sys.executable, "-c", OS_FORK_SCRIPT, database.url], check=True)


def test_forked_child_opens_its_own_connection(store: DBStore) -> None:
    store.create_run_log("run")
    inherited = store.database.connection()

    def child(results: Any) -> None:
        store.get_run_log_by_id("run")
        results.put(store.database.connection() is inherited)

    forking = multiprocessing.get_context("fork")
    results = forking.Queue()
    process = forking.Process(target=child, args=(results,))
    process.start()
    assert results.get(timeout=60) is False
    process.join()


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc to list the open files of a process")
def test_forked_child_never_closes_inherited_file(sqlite_file: Any) -> None:
    """SQLite forbids it, even if no damage shows (https://www.sqlite.org/howtocorrupt.html, 2.6)."""
    database = sqlite_file
    store = DBStore(connection_string=database.url)
    store.create_run_log("run")

    def open_files() -> List[str]:
        paths = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        return [path for path in paths if os.path.realpath(path) == str(database.path)]

    def child(results: Any) -> None:
        before = open_files()
        drop_store(store)
        results.put((before, open_files()))

    forking = multiprocessing.get_context("fork")
    results = forking.Queue()
    process = forking.Process(target=child, args=(results,))
    process.start()
    before, after = results.get(timeout=60)
    assert before and before == after
    process.join()


def test_forked_child_ignores_lock_held_in_parent(store: DBStore) -> None:
    store.create_run_log("run")
    with store.database.lock:
        forking = multiprocessing.get_context("fork")
        started = threading.Thread(target=lambda: None)
        started.start()
        started.join()
        results: Any = forking.Queue()
        exit_codes: List[int] = []

        def fork() -> None:
            process = forking.Process(target=lambda: results.put(store.get_run_log_by_id("run").run_id))
            process.start()
            process.join(60)
            exit_codes.append(process.exitcode)

        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert exit_codes == [0]


def test_forked_child_keeps_in_memory_database() -> None:
    store = DBStore(connection_string="sqlite:///:memory:")
    store.create_run_log("run", tag="kept")
    forking = multiprocessing.get_context("fork")
    results = forking.Queue()
    process = forking.Process(target=lambda: results.put(store.get_run_log_by_id("run").tag))
    process.start()
    assert results.get(timeout=60) == "kept"
    process.join()


# Clocks

INSTANT = datetime.datetime(2024, 2, 29, 23, 59, 59, 999_999)
CLOCK_READINGS = st.lists(
    st.one_of(
        st.just(INSTANT),
        st.just(INSTANT.replace(microsecond=0)),
        st.datetimes(min_value=datetime.datetime(1999, 1, 1), max_value=datetime.datetime(2999, 1, 1)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(clock=CLOCK_READINGS)
def test_created_at_increases_despite_clock_skew(store: DBStore, clock: List[datetime.datetime]) -> None:
    run_id = uuid.uuid4().hex
    ticks = iter([INSTANT, *clock])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(table, "utcnow", lambda: next(ticks))
        store.create_run_log(run_id)
        for number, _ in enumerate(clock):
            store.add_step_log(step(f"s{number}"), run_id)
    log = store.table._log
    created_at = [row.created_at for row in log.select().where(log.run_id == run_id).order_by(log.pk)]
    assert len(created_at) == len(clock) + 1
    for earlier, later in zip(created_at, created_at[1:]):
        assert earlier < later
        assert later == earlier + datetime.timedelta(microseconds=1) or later in clock
    names = [f"s{number}" for number, _ in enumerate(clock)]
    assert list(store.get_run_log_by_id(run_id, full=True).steps) == names


def test_update_keeps_created_at(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    store.add_step_log(step("a"), "run")
    before = database.sql("SELECT attribute_key, created_at FROM db_log ORDER BY pk")
    store.add_step_log(step("a", status="SUCCESS"), "run")
    store.update_run_log_status("run", "SUCCESS")
    assert database.sql("SELECT attribute_key, created_at FROM db_log ORDER BY pk") == before


def test_created_at_is_utc_with_microseconds(store: DBStore, database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    before = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    store.create_run_log("run")
    after = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    [(created_at,)] = database.sql("SELECT created_at FROM db_log")
    assert before <= datetime.datetime.fromisoformat(str(created_at)) <= after

"""Processes that write one run at once, are killed, or fork; and clocks that disagree."""

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

from magnus_peewee_store import DBStore, connection, databases, db

CROWD = 20


# A crowd


def write_a_share(number: int, url: str) -> None:
    """What the pods of a map do, and more: a branch and steps of its own, and keys that all of them write."""
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


def assert_every_share_is_there(run_log: RunLog) -> None:
    branches = run_log.steps["map"].branches
    assert set(branches) == {f"map.{number}" for number in range(CROWD)}
    for name, branch in branches.items():
        assert {each: log.status for each, log in branch.steps.items()} == {
            f"{name}.step {attempt}": "SUCCESS" for attempt in range(5)
        }
    own = {f"own {number} {attempt}": [number, attempt] for number in range(CROWD) for attempt in range(5)}
    assert run_log.parameters == {**own, "shared": run_log.parameters["shared"]}
    assert run_log.run_config == {f"seen by {number}": 4 for number in range(CROWD)}
    assert run_log.status == "SUCCESS"


def test_a_crowd_that_writes_one_run_loses_and_doubles_nothing(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    store.add_step_log(step("map", step_type="map"), "run")
    run_in_processes(CROWD, write_a_share, database.url)

    run_log = store.get_run_log_by_id("run", full=True)
    assert_every_share_is_there(run_log)
    rows = database.sql("SELECT attribute_type, attribute_key FROM db_log WHERE run_id = 'run'")
    assert len(rows) == len(set(rows)) == 2 + CROWD + CROWD * 5 * 2 + 1


def create_the_run(number: int, url: str) -> bool:
    try:
        DBStore(connection_string=url).create_run_log("run", tag=str(number))
        return True
    except exceptions.RunLogExistsError:
        return False


def test_of_a_crowd_that_creates_one_run_in_a_new_database_one_succeeds(store: DBStore, database: Any) -> None:
    created = run_in_processes(CROWD, create_the_run, database.url)
    assert created.count(True) == 1
    assert store.get_run_log_by_id("run").tag == str(created.index(True))


def set_the_same_parameters(number: int, url: str) -> None:
    DBStore(connection_string=url).set_parameters("run", {f"p{each}": number for each in range(30)})


def test_parameters_that_are_set_together_are_seen_together(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    run_in_processes(CROWD, set_the_same_parameters, database.url)
    parameters = store.get_parameters("run")
    assert len(parameters) == 30 and len(set(parameters.values())) == 1


def test_a_new_database_that_others_are_setting_up_is_waited_for(
    sqlite_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite answers 'database is locked' at once to who switches a file to WAL while another writes to it."""
    store = DBStore(connection_string=sqlite_file.url)
    other = sqlite3.connect(str(sqlite_file.path), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waits: List[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr(databases.time, "sleep", sleep)
    store.create_run_log("run")
    assert len(waits) == 3
    assert store.table.database.journal_mode == "wal"
    other.close()


def test_nobody_sees_the_table_without_its_indexes(sqlite_file: Any) -> None:
    database = sqlite_file
    table = db.LogTable(connection.make_database(database.url))
    seen = []
    table.database.query_hooks.append(lambda _: seen.append(database.sql("SELECT COUNT(*) FROM sqlite_master")[0][0]))
    table.create()
    assert len(seen) >= 3 and set(seen) == {0}
    assert database.sql("SELECT COUNT(*) FROM sqlite_master") == [(1 + len(db.INDEXES),)]


def put_generations(url: str, stop: Any) -> None:
    store = DBStore(connection_string=url)
    for generation in itertools.count(1):
        if stop.is_set():
            return
        steps = {f"s{each}": step(f"s{each}", message=str(generation)) for each in range(20)}
        store.put_run_log(RunLog(run_id="run", tag=str(generation), parameters={"x": str(generation)}, steps=steps))


def generation_of(run_log: RunLog) -> int:
    generations = {run_log.tag, *run_log.parameters.values(), *(each.message for each in run_log.steps.values())}
    assert len(generations) == 1, generations
    return int(generations.pop())


def test_a_reader_never_sees_half_of_a_run_log(store: DBStore, database: Any) -> None:
    store.put_run_log(RunLog(run_id="run", tag="0", parameters={"x": "0"}))
    stop = FORKSERVER.Event()
    writers = [FORKSERVER.Process(target=put_generations, args=(database.url, stop)) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        seen = {generation_of(store.get_run_log_by_id("run", full=True)) for _ in range(300)}
        while len(seen) < 5:
            seen.add(generation_of(store.get_run_log_by_id("run", full=True)))
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


# Killed


def write_until_killed(url: str, acknowledged: Any) -> None:
    store = DBStore(connection_string=url)
    for number in itertools.count():
        store.add_step_log(step(f"s{number}", user_defined_metrics={"filling": "x" * 20_000}), "run")
        acknowledged.send(number)


def put_until_killed(url: str, acknowledged: Any) -> None:
    store = DBStore(connection_string=url)
    for number in itertools.count(1):
        steps = {f"s{each}": step(f"s{each}", message=str(number)) for each in range(20)}
        store.put_run_log(RunLog(run_id="run", tag=str(number), parameters={"x": str(number)}, steps=steps))
        acknowledged.send(number)


def kill_while(work: Callable[..., None], url: str, after: int) -> int:
    """Kill a process that works, some time after so many writes of it were acknowledged; give the last that was."""
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


def test_what_was_acknowledged_outlives_a_killed_process(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    for _ in range(15):
        last = kill_while(write_until_killed, database.url, after=random.randrange(1, 15))
        steps = store.get_run_log_by_id("run", full=True).steps
        assert [f"s{number}" for number in range(last + 1)] == list(steps)[: last + 1]
        if isinstance(database, SqliteFile):
            assert database.sql("PRAGMA integrity_check") == [("ok",)]
        database.sql("DELETE FROM db_log WHERE attribute_type = 'Step'")


def test_a_killed_process_leaves_all_of_a_run_log_or_none(store: DBStore, database: Any) -> None:
    for _ in range(15):
        last = kill_while(put_until_killed, database.url, after=random.randrange(1, 15))
        assert generation_of(store.get_run_log_by_id("run", full=True)) >= last
        database.sql("DELETE FROM db_log")


# Forked


def uses(store: DBStore) -> None:
    for number in range(30):
        store.add_step_log(step(f"child {number}"), "run")
        assert store.get_step_log(f"child {number}", "run")


def closes(store: DBStore) -> None:
    store.close()


def closes_the_database(store: DBStore) -> None:
    store.table.database.close()


def drops(store: DBStore) -> None:
    store.__pydantic_private__.clear()
    gc.collect()


def leaves(store: DBStore) -> None:
    sys.exit(0)


@pytest.mark.parametrize("child", [uses, closes, closes_the_database, drops, leaves])
def test_a_forked_child_does_not_harm_its_parent(store: DBStore, child: Callable[[DBStore], None]) -> None:
    store.create_run_log("run")
    inherited = store.table.database.connection()
    process = multiprocessing.get_context("fork").Process(target=child, args=(store,))
    process.start()
    for number in range(30):
        store.add_step_log(step(f"parent {number}"), "run")
    process.join()
    assert process.exitcode == 0
    store.set_parameters("run", {"x": 1})
    assert store.table.database.connection() is inherited
    names = list(store.get_run_log_by_id("run", full=True).steps)
    assert [name for name in names if name.startswith("parent")] == [f"parent {number}" for number in range(30)]
    assert len(names) == (60 if child is uses else 30)


FORK_BY_HAND = """
import os, sys
from magnus.datastore import StepLog
from magnus_peewee_store import DBStore

store = DBStore(connection_string=sys.argv[1])
store.create_run_log("run")
child = os.fork()
if not child:
    sys.exit()  # the whole interpreter is torn down, and every object freed
assert os.waitpid(child, 0)[1] == 0
store.table.database.retry_seconds = 0
store.add_step_log(StepLog(name="a", internal_name="a"), "run")
"""


def test_a_forked_child_that_ends_as_a_program_does_not_harm_its_parent(database: AnyDatabase) -> None:
    subprocess.run([sys.executable, "-c", FORK_BY_HAND, database.url], check=True)


def test_a_forked_child_opens_a_connection_of_its_own(store: DBStore) -> None:
    store.create_run_log("run")
    inherited = store.table.database.connection()

    def child(answer: Any) -> None:
        store.get_run_log_by_id("run")
        answer.put(store.table.database.connection() is inherited)

    forking = multiprocessing.get_context("fork")
    answer = forking.Queue()
    process = forking.Process(target=child, args=(answer,))
    process.start()
    assert answer.get(timeout=60) is False
    process.join()


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc to see the open files of a process")
def test_a_forked_child_never_closes_what_it_inherited(sqlite_file: Any) -> None:
    """SQLite forbids it, even where no harm shows (https://www.sqlite.org/howtocorrupt.html, 2.6)."""
    database = sqlite_file
    store = DBStore(connection_string=database.url)
    store.create_run_log("run")

    def open_files() -> List[str]:
        paths = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        return [path for path in paths if os.path.realpath(path) == str(database.path)]

    def child(answer: Any) -> None:
        before = open_files()
        drops(store)
        answer.put((before, open_files()))

    forking = multiprocessing.get_context("fork")
    answer = forking.Queue()
    process = forking.Process(target=child, args=(answer,))
    process.start()
    before, after = answer.get(timeout=60)
    assert before and before == after
    process.join()


def test_a_forked_child_is_not_held_up_by_a_thread_of_its_parent(store: DBStore) -> None:
    store.create_run_log("run")
    with store.table.database.lock:
        forking = multiprocessing.get_context("fork")
        started = threading.Thread(target=lambda: None)
        started.start()
        started.join()
        answer: Any = forking.Queue()
        outcome: List[int] = []

        def fork() -> None:
            process = forking.Process(target=lambda: answer.put(store.get_run_log_by_id("run").run_id))
            process.start()
            process.join(60)
            outcome.append(process.exitcode)

        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert outcome == [0]


def test_a_forked_child_keeps_its_copy_of_a_database_in_memory() -> None:
    store = DBStore(connection_string="sqlite:///:memory:")
    store.create_run_log("run", tag="kept")
    forking = multiprocessing.get_context("fork")
    answer = forking.Queue()
    process = forking.Process(target=lambda: answer.put(store.get_run_log_by_id("run").tag))
    process.start()
    assert answer.get(timeout=60) == "kept"
    process.join()


# Clocks

INSTANT = datetime.datetime(2024, 2, 29, 23, 59, 59, 999_999)
CLOCK = st.lists(
    st.one_of(
        st.just(INSTANT),
        st.just(INSTANT.replace(microsecond=0)),
        st.datetimes(min_value=datetime.datetime(1999, 1, 1), max_value=datetime.datetime(2999, 1, 1)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(clock=CLOCK)
def test_a_later_row_is_later_whatever_the_clocks_say(store: DBStore, clock: List[datetime.datetime]) -> None:
    run_id = uuid.uuid4().hex
    ticks = iter([INSTANT, *clock])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(db, "utcnow", lambda: next(ticks))
        store.create_run_log(run_id)
        for number, _ in enumerate(clock):
            store.add_step_log(step(f"s{number}"), run_id)
    log = store.table._log
    written = [row.created_at for row in log.select().where(log.run_id == run_id).order_by(log.pk)]
    assert len(written) == len(clock) + 1
    for earlier, later in zip(written, written[1:]):
        assert earlier < later
        assert later == earlier + datetime.timedelta(microseconds=1) or later in clock
    names = [f"s{number}" for number, _ in enumerate(clock)]
    assert list(store.get_run_log_by_id(run_id, full=True).steps) == names


def test_a_row_that_changes_keeps_its_time(store: DBStore, database: Any) -> None:
    store.create_run_log("run")
    store.add_step_log(step("a"), "run")
    before = database.sql("SELECT attribute_key, created_at FROM db_log ORDER BY pk")
    store.add_step_log(step("a", status="SUCCESS"), "run")
    store.update_run_log_status("run", "SUCCESS")
    assert database.sql("SELECT attribute_key, created_at FROM db_log ORDER BY pk") == before


def test_times_are_utc_to_the_microsecond(store: DBStore, database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    before = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    store.create_run_log("run")
    after = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    [(created_at,)] = database.sql("SELECT created_at FROM db_log")
    assert before <= datetime.datetime.fromisoformat(str(created_at)) <= after

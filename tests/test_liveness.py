"""Signs of life: real processes that are killed, interrupted, stopped, forked, or busy; and a server that restarts."""

import importlib.metadata
import itertools
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List

import peewee
import pytest
from click.testing import CliRunner
from conftest import SERVERS, AnyDatabase, Project, SqliteFile, database_for, new_server
from logs import attempted_step, step
from magnus import context
from magnus.datastore import BranchLog, RunLog
from test_faults import PIPELINE, until

from magnus_peewee_store import DBStore, RunExistsError, cli, fragments, heartbeat, runs, timeline
from magnus_peewee_store.cli import follow
from magnus_peewee_store.heartbeat import INTERRUPTED, STALE_INTERVALS, Beat, liveness_of
from magnus_peewee_store.origin import this_process
from magnus_peewee_store.store import RunNotFoundError

INTERVAL = 0.2
KINDS = ["sqlite", "postgresql+psycopg"]
# "a" is a task, because magnus refuses to re-run a run with an empty catalog. "pause" waits for the file "go on".
STEPS = {**PIPELINE["dag"]["steps"], "a": {"type": "task", "command": "functions.a", "next": "pause"}}
PAUSE = """
import time
from pathlib import Path

def a():
    pass

def pause():
    Path("paused").touch()
    while not Path("go on").exists():
        time.sleep(0.01)
"""


@pytest.fixture(params=KINDS)
def any_database(request: pytest.FixtureRequest, tmp_path: Path, server_databases: Any) -> Iterator[AnyDatabase]:
    """Return a database of each kind."""
    yield from database_for(request.param, tmp_path, server_databases)


@pytest.fixture
def reader(any_database: AnyDatabase) -> Iterator[DBStore]:
    store = DBStore(connection_string=any_database.url)
    yield store
    store.close()


@pytest.fixture
def executing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes this process one in which magnus executes a run."""

    def execute(run_id: str) -> None:
        monkeypatch.setattr(context, "run_context", SimpleNamespace(run_id=run_id, secrets_handler=None))

    return execute


@pytest.fixture
def writer(any_database: AnyDatabase, executing: Callable[[str], None]) -> Iterator[DBStore]:
    """Return a store in a process that executes the run "run"."""
    executing("run")
    store = DBStore(connection_string=any_database.url, heartbeat=INTERVAL)
    yield store
    store.close()


def start(project: Project, url: str, function: str = PAUSE, interval: float = INTERVAL) -> "subprocess.Popen[str]":
    """Start a pipeline and return its process once its step runs."""
    config = {"run_log_store": {"type": "db", "config": {"connection_string": url, "heartbeat": interval}}}
    project.write(functions_py=function, pipeline_yaml={"dag": {**PIPELINE["dag"], "steps": STEPS}}, config_yaml=config)
    # A group of its own, so that Ctrl-C reaches the pipeline only.
    process = project.start(
        *("magnus", "execute", "-f", "pipeline.yaml", "-c", "config.yaml", "--run-id", "run"), start_new_session=True
    )
    until(lambda: (project.folder / "paused").exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0][-3000:]
    return process


def db(*arguments: str, exit_code: int = 0) -> str:
    """Run a `magnus db` command in this process and return what it prints."""
    result = CliRunner().invoke(cli.db, list(arguments))
    assert result.exit_code == exit_code, result.output
    return " ".join(result.output.split())


def summary(store: DBStore) -> runs.RunSummary:
    [run] = runs.summarize(store, ["run"])
    return run


def end(process: "subprocess.Popen[str]", project: Project) -> None:
    (project.folder / "go on").touch()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-5000:]


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=120)


def heartbeat_rows(store: DBStore) -> List[Dict[str, Any]]:
    return [json.loads(value) for _, _, value in store.table.read("run", ("Heartbeat",))]


# Real processes


def test_run_is_alive_while_its_step_runs(project: Project, reader: DBStore, any_database: AnyDatabase) -> None:
    process = start(project, any_database.url)
    first = until(lambda: summary(reader).last_seen)
    until(lambda: summary(reader).last_seen > first)
    assert summary(reader).is_stale is False and not summary(reader).is_interrupted
    end(process, project)
    run = summary(reader)
    assert (run.status, run.last_seen, run.is_stale) == ("SUCCESS", None, None)
    assert len(heartbeat_rows(reader)) == 1


def test_killed_run_becomes_stale(project: Project, reader: DBStore, any_database: AnyDatabase) -> None:
    process = start(project, any_database.url)
    kill(process)
    until(lambda: summary(reader).is_stale)
    run = summary(reader)
    assert run.status == "PROCESSING" and not run.is_interrupted
    assert run.duration >= (run.last_seen - run.started).total_seconds() > 0
    assert " STALE " in db("runs", "--connection-string", any_database.url)


def test_interrupted_run_is_recorded_at_once(project: Project, reader: DBStore, any_database: AnyDatabase) -> None:
    process = start(project, any_database.url, interval=600)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    run = summary(reader)
    assert run.is_interrupted and run.is_stale and run.status == "PROCESSING"
    assert "INTERRUPTED" in db("runs", "--connection-string", any_database.url)


def test_stopped_run_is_not_stale_after_it_continues(
    project: Project, reader: DBStore, any_database: AnyDatabase
) -> None:
    process = start(project, any_database.url)
    process.send_signal(signal.SIGSTOP)
    until(lambda: summary(reader).is_stale)
    process.send_signal(signal.SIGCONT)
    until(lambda: summary(reader).is_stale is False)
    end(process, project)


# Holds the GIL for two of the intervals, in a call of C that does not release it.
HOLD_GIL = """
import ctypes
from pathlib import Path

def a():
    pass

def pause():
    Path("paused").touch()
    for _ in range(2):
        ctypes.PyDLL(None).usleep(ctypes.c_uint(999_999))
    Path("released").touch()
    while not Path("go on").exists():
        pass
"""


def test_run_that_holds_the_gil_is_not_stale(project: Project, reader: DBStore, any_database: AnyDatabase) -> None:
    process = start(project, any_database.url, HOLD_GIL, interval=1)
    states = set()
    while not (project.folder / "released").exists():
        states.add(summary(reader).is_stale)
    assert states == {False}
    end(process, project)


# Forks a child, which lives on for a while and writes nothing.
FORK = """
import os, time
from pathlib import Path

def a():
    pass

def pause():
    for _ in range(50):
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    Path("paused").touch()
    while not Path("go on").exists():
        time.sleep(0.01)
"""


def test_fork_inside_a_step_leaves_one_heartbeat(project: Project, reader: DBStore, any_database: AnyDatabase) -> None:
    process = start(project, any_database.url, FORK, interval=0.01)
    first = summary(reader).last_seen
    until(lambda: summary(reader).last_seen > first)
    end(process, project)
    assert len(heartbeat_rows(reader)) == 1


@pytest.mark.parametrize("scheme", KINDS[1:])
def test_heartbeat_survives_a_restart_of_the_server(project: Project, scheme: str) -> None:
    server = new_server(SERVERS[scheme])
    try:
        database = server.database(scheme)
        store = DBStore(connection_string=database.url)
        process = start(project, database.url)
        server.restart()
        until(lambda: summary(store).is_stale is False)
        restarted = summary(store).last_seen
        until(lambda: summary(store).last_seen > restarted)
        end(process, project)
        store.close()
    finally:
        server.remove()


# In this process


def test_scripts_outside_of_magnus_write_no_heartbeat(store: DBStore) -> None:
    store.create_run_log("run", status="PROCESSING")
    store.add_step_log(step("a"), "run")
    assert heartbeat_rows(store) == []
    assert (summary(store).last_seen, summary(store).is_stale) == (None, None)


def test_heartbeat_of_zero_writes_none(sqlite_file: SqliteFile, executing: Callable[[str], None]) -> None:
    executing("run")
    store = DBStore(connection_string=sqlite_file.url, heartbeat=0)
    store.create_run_log("run", status="PROCESSING")
    assert heartbeat_rows(store) == []


def test_heartbeat_says_who_works_on_the_run(writer: DBStore) -> None:
    writer.create_run_log("run", status="PROCESSING")
    [row] = heartbeat_rows(writer)
    assert row["interval"] == INTERVAL and row["user"] and row["host"] and row["state"] == ""
    [(_, key, _)] = writer.table.read("run", ("Heartbeat",))
    assert key.split()[:2] == [row["host"], str(os.getpid())]


@pytest.mark.parametrize(
    "end_run",
    [
        lambda store: store.update_run_log_status("run", "SUCCESS"),
        lambda store: store.put_run_log(RunLog(run_id="run", status="FAIL")),
        lambda store: store.add_branch_log(RunLog(run_id="run", status="SUCCESS"), "run"),
        lambda store: store.close(),
    ],
)
def test_heartbeat_stops_with_the_run(writer: DBStore, end_run: Callable[[DBStore], None]) -> None:
    writer.create_run_log("run", status="PROCESSING")
    assert [each.name for each in threading.enumerate()].count("magnus-heartbeat") == 1
    end_run(writer)
    assert "magnus-heartbeat" not in [each.name for each in threading.enumerate()]


def test_write_after_the_end_of_the_run_starts_no_heartbeat(writer: DBStore) -> None:
    writer.create_run_log("run", status="PROCESSING")
    writer.update_run_log_status("run", "SUCCESS")
    writer.add_step_log(step("success", step_type="success"), "run")
    assert "magnus-heartbeat" not in [each.name for each in threading.enumerate()]


def test_next_run_of_a_notebook_ends_the_heartbeat_of_the_last(
    writer: DBStore, executing: Callable[[str], None]
) -> None:
    writer.create_run_log("run", status="PROCESSING")
    executing("next run")
    until(lambda: "magnus-heartbeat" not in [each.name for each in threading.enumerate()])


def test_heartbeat_does_not_change_what_magnus_reads(writer: DBStore, reader: DBStore) -> None:
    run_log = RunLog(run_id="run", status="PROCESSING", parameters={"x": 1}, steps={"a": step("a")})
    writer.put_run_log(run_log)
    assert heartbeat_rows(writer)
    assert reader.get_run_log_by_id("run", full=True) == run_log
    assert [row.attribute_type for row in runs.read_run(reader, "run").unreadable] == []


def test_failing_heartbeat_does_not_disturb_the_run(
    writer: DBStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "magnus.db")

    def fail(*arguments: Any) -> None:
        raise peewee.OperationalError("no heart")

    monkeypatch.setattr(type(writer.table), "upsert_once", fail)
    writer.create_run_log("run", status="PROCESSING")
    writer.add_step_log(step("a"), "run")
    assert {
        (record.levelno, record.getMessage()) for record in caplog.records if "no heart" in record.getMessage()
    } == {(logging.DEBUG, "A heartbeat of run 'run' failed: no heart")}


def test_heartbeat_waits_briefly_for_another_thread(writer: DBStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "magnus.db")
    writer.create_run_log("run", status="PROCESSING")
    with writer.database.lock:
        until(lambda: any("Another thread uses the connection" in record.getMessage() for record in caplog.records))
    seen = summary(writer).last_seen
    until(lambda: summary(writer).last_seen > seen)


def test_heartbeat_does_not_wait_for_another_writer_of_the_file(
    sqlite_file: SqliteFile, executing: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "magnus.db")
    executing("run")
    store = DBStore(connection_string=sqlite_file.url, heartbeat=INTERVAL)
    store.create_run_log("run", status="PROCESSING")
    other = DBStore(connection_string=sqlite_file.url)
    other.database.connect()
    with other.database.atomic():
        until(lambda: any("database is locked" in record.getMessage() for record in caplog.records))
        assert store.get_run_log_by_id("run").status == "PROCESSING"
    assert store.database.execute_sql("PRAGMA busy_timeout").fetchone() == (1000,)
    store.close()


def test_heartbeat_does_not_write_to_a_deleted_run(writer: DBStore, reader: DBStore) -> None:
    writer.create_run_log("run", status="PROCESSING")
    seen = summary(reader).last_seen
    until(lambda: summary(reader).last_seen > seen)
    until(lambda: environment_rows(reader))
    assert sum(runs.delete_runs(reader, ["run"])) == 3
    writer._heartbeat._beat()
    assert not reader.table.has("run")


def test_forked_child_starts_its_own_heartbeat(writer: DBStore, reader: DBStore) -> None:
    writer.create_run_log("run", status="PROCESSING")

    def write_and_beat() -> None:
        assert writer._heartbeat._thread is None
        writer.add_step_log(step("child"), "run")
        writer._heartbeat._beat()

    process = multiprocessing.get_context("fork").Process(target=write_and_beat)
    process.start()
    process.join()
    assert process.exitcode == 0
    pids = [key.split()[1] for _, key, _ in reader.table.read("run", ("Heartbeat",))]
    assert pids == [str(os.getpid()), str(process.pid)]
    seen = summary(reader).last_seen
    until(lambda: summary(reader).last_seen > seen)


def test_fork_waits_for_a_heartbeat_in_progress(writer: DBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock inside of a driver, which the fork copies while a heartbeat holds it, would stay locked for ever."""
    writer.create_run_log("run", status="PROCESSING")
    entered, is_done = threading.Event(), threading.Event()
    upsert_once = type(writer.table).upsert_once

    def upsert_slowly(*arguments: Any) -> bool:
        entered.set()
        is_done.wait(0.5)
        is_done.set()
        return upsert_once(*arguments)

    monkeypatch.setattr(type(writer.table), "upsert_once", upsert_slowly)
    entered.wait()
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(0 if is_done.is_set() else 1))
    process.start()
    process.join()
    assert process.exitcode == 0


# How heartbeats are read


def beat(age: float, interval: float = 30, state: str = "") -> Beat:
    return Beat(str(NOW - timedelta(seconds=age)), interval, state, "ann", "laptop", 0)


NOW = datetime(2024, 2, 3, 10)


@pytest.mark.parametrize(
    ("beats", "is_stale", "is_interrupted"),
    [
        ([], None, False),
        ([beat(0)], False, False),
        ([beat(90)], False, False),
        ([beat(106)], True, False),
        ([beat(300), beat(20)], False, False),
        ([beat(300), beat(200)], True, False),
        ([beat(90, interval=600), beat(300)], False, False),
        ([beat(1, state=INTERRUPTED)], True, True),
        ([beat(20), beat(1, state=INTERRUPTED)], True, True),
        ([beat(20, state=INTERRUPTED), beat(1)], False, False),
        ([beat(-50)], False, False),
    ],
)
def test_stale_after_three_missed_heartbeats(beats: List[Beat], is_stale: Any, is_interrupted: bool) -> None:
    liveness = liveness_of(beats, NOW)
    assert (liveness.is_stale, liveness.is_interrupted) == (is_stale, is_interrupted)
    assert liveness.last_seen == (max(each.time for each in beats).replace(tzinfo=timezone.utc) if beats else None)


def test_a_minute_of_held_gil_is_shorter_than_the_limit() -> None:
    assert STALE_INTERVALS * 30 > 30 + 60


def test_age_is_computed_by_the_database_clock(writer: DBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.create_run_log("run", status="PROCESSING")
    writer.close()
    backend = type(writer.database)
    now = (
        backend.now(writer.database) if not writer.database.is_closed() else writer.database.retry(writer.database.now)
    )
    monkeypatch.setattr(backend, "now", lambda self: now + timedelta(hours=1))
    assert summary(writer).silence == pytest.approx(3600, abs=60)


def add_beat(store: DBStore, age: float = 0, run_id: str = "run", **values: Any) -> None:
    """Write a heartbeat of another process."""
    value = {
        **beat(0)._asdict(),
        "seen": str(store.database.retry(store.database.now) - timedelta(seconds=age)),
        **values,
    }
    store.table.upsert(run_id, [("Heartbeat", f"laptop 1 {age}", json.dumps(value))])


def test_check_lists_stale_runs(store: DBStore) -> None:
    store.create_run_log("run", status="PROCESSING")
    add_beat(store, age=1000)
    report = runs.check(store)
    assert report.stale == ["run"] and report.is_healthy


@pytest.mark.parametrize(("state", "shown"), [("", "STALE 16m ago"), (INTERRUPTED, "INTERRUPTED 16m ago")])
def test_durations_of_a_run_that_died_are_named(sqlite_file: SqliteFile, state: str, shown: str) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run", status="PROCESSING")
    store.add_step_log(attempted_step("load", "10:00:00", "10:00:12"), "run")
    add_beat(store, 1000, state=state)
    options = ("--connection-string", sqlite_file.url)
    assert db("show", "run", *options).startswith(f"run {shown}, took 12s started ")
    assert f" run {shown} 20" in db("runs", *options)


def test_timeline_and_show_agree_on_the_duration_of_a_stale_run(store: DBStore) -> None:
    store.create_run_log("run", status="PROCESSING")
    run = runs.read_run(store, "run")
    last_seen = run.started + timedelta(minutes=5)
    run = replace(run, liveness=heartbeat.Liveness(last_seen, 1000, True), last_beat=last_seen)
    assert run.duration == 300
    assert "5m until last seen" in timeline.to_html(run) and "5m until last seen" in timeline.to_svg(run)


def test_prune_keeps_a_run_that_is_alive(store: DBStore, database: AnyDatabase) -> None:
    store.create_run_log("run", status="PROCESSING")
    database.sql("UPDATE db_log SET created_at = '2020-01-01 00:00:00'")
    add_beat(store)
    assert runs.prunable(store, keep=0).running == ["run"]
    add_beat(store, age=1000)
    database.sql("DELETE FROM db_log WHERE attribute_key LIKE '% 0'")
    assert runs.prunable(store, keep=0).run_ids == ["run"]


# The environment


def environment_rows(store: DBStore) -> List[Any]:
    return store.table.read("run", fragments.ENVIRONMENT)


def test_starting_process_records_the_packages_once(writer: DBStore) -> None:
    writer.create_run_log("run", status="PROCESSING")
    until(lambda: environment_rows(writer))
    before = writer.table.read("run", fragments.ENVIRONMENT)
    writer.update_run_log_status("run", "SUCCESS")
    assert environment_rows(writer) == before and len(before) == 1
    run = runs.read_run(writer, "run")
    assert f"peewee=={importlib.metadata.version('peewee')}" in run.packages
    names = [each.partition("==")[0].lower() for each in run.packages]
    assert names == sorted(names) and len({*names}) == len(names)


def test_no_call_waits_for_the_packages(writer: DBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()
    monkeypatch.setattr(heartbeat, "installed_packages", lambda: may_go_on.wait(60) and ["a==1"])
    writer.create_run_log("run", status="PROCESSING")
    writer.add_step_log(step("a"), "run")
    assert writer.get_step_log("a", "run").name == "a" and not environment_rows(writer)
    may_go_on.set()
    until(lambda: environment_rows(writer))


@pytest.mark.parametrize("interval", [0, 1])
def test_run_that_ends_before_has_its_packages_at_the_end(
    sqlite_file: SqliteFile, executing: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, interval: int
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    executing("run")
    store = DBStore(connection_string=sqlite_file.url, heartbeat=interval)
    monkeypatch.setattr(threading.Thread, "start", start)
    store.create_run_log("run", status="PROCESSING")
    assert not environment_rows(store)
    store.update_run_log_status("run", "SUCCESS")
    assert len(environment_rows(store)) == 1


def test_other_processes_record_no_packages(writer: DBStore, any_database: AnyDatabase) -> None:
    DBStore(connection_string=any_database.url).put_run_log(RunLog(run_id="run", status="PROCESSING"))
    writer.add_step_log(step("a"), "run")
    first = summary(writer).last_seen
    until(lambda: summary(writer).last_seen > first)
    writer.update_run_log_status("run", "SUCCESS")
    assert not environment_rows(writer)


def test_environment_is_not_recorded_on_request(sqlite_file: SqliteFile, executing: Callable[[str], None]) -> None:
    for run_id, is_recorded in (("run", False), ("other", True)):
        executing(run_id)
        store = DBStore(connection_string=sqlite_file.url, record_environment=is_recorded)
        store.create_run_log(run_id, status="PROCESSING")
        store.set_run_config(run_id, {})
        store.update_run_log_status(run_id, "SUCCESS")
        run = runs.read_run(store, run_id)
        assert bool(run.packages) == bool(run.origin.environment) == is_recorded and run.origin.user


def test_environment_is_carried_and_compared_and_never_needed(
    sqlite_file: SqliteFile, tmp_path: Path, executing: Callable[[str], None]
) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    for run_id, version in (("run", "1"), ("other", "2"), ("bare", None)):
        store.put_run_log(RunLog(run_id=run_id, status="SUCCESS"))
        if version:
            store.table.upsert(run_id, [("Environment", "packages", json.dumps(["a==0", f"b=={version}"]))])
    compared = [runs.read_run(store, run_id) for run_id in ("run", "other", "bare")]
    assert runs.compare(compared[:2]).environment == {"b": {"run": "1", "other": "2"}}
    assert runs.compare(compared).environment == {}
    list(runs.export_runs(store, ["run"], tmp_path / "out"))
    targets = [DBStore(connection_string=f"sqlite:///{tmp_path}/{name}.db") for name in ("imported", "copied")]
    list(runs.import_runs(targets[0], runs.find_run_logs(tmp_path / "out")))
    list(runs.copy_runs(store, targets[1], ["run"]))
    for target in targets:
        assert runs.read_run(target, "run").packages == ("a==0", "b==1")
    shown = db("show", "run", "--environment", "--connection-string", sqlite_file.url)
    assert shown == "a==0 b==1"
    assert "no record of its environment" in db("show", "bare", "--environment", "--connection-string", sqlite_file.url)
    for damaged in ("{", '"text"', "7"):
        sqlite_file.sql("UPDATE db_log SET attribute_value = ? WHERE attribute_type = 'Environment'", damaged)
        assert store.get_run_log_by_id("run", full=True).status == "SUCCESS"
        assert runs.read_run(store, "run").packages == () and runs.search(store, "run_id=run")


# Dead runs


def unfinished_run(status: str = "PROCESSING") -> RunLog:
    steps = {"done": step("done", status="SUCCESS"), "map": step("map", status="PROCESSING", step_type="map")}
    branch = BranchLog(internal_name="map.1", status="PROCESSING")
    branch.steps["map.1.work"] = step("map.1.work", status="PROCESSING")
    steps["map"].branches["map.1"] = branch
    return RunLog(run_id="run", status=status, steps=steps, parameters={"x": 1})


def test_mark_failed_ends_all_that_is_unfinished(store: DBStore) -> None:
    store.put_run_log(unfinished_run())
    assert sorted(runs.mark_failed(store, "run")) == ["map", "map.1", "map.1.work"]
    run = runs.read_run(store, "run")
    run_log = run.run_log
    branch = run_log.steps["map"].branches["map.1"]
    assert [each.status for each in (run_log, run_log.steps["map"], branch, branch.steps["map.1.work"])] == ["FAIL"] * 4
    assert run_log.steps["done"] == step("done", status="SUCCESS") and run_log.parameters == {"x": 1}
    assert branch.steps["map.1.work"].message.startswith("Marked as failed by ")
    assert [(note.text, note.user) for note in run.notes] == [("Marked as failed", this_process().user)]


def test_duration_of_a_run_that_died_stays_when_it_is_marked_failed(store: DBStore) -> None:
    store.put_run_log(unfinished_run())
    add_beat(store, age=-300)  # five minutes after the start
    before = runs.read_run(store, "run").started
    runs.mark_failed(store, "run")
    [listed] = runs.list_runs(store)
    assert listed.started == before and listed.duration == pytest.approx(300, abs=5)
    assert runs.read_run(store, "run").duration == listed.duration


def test_mark_failed_leaves_an_ended_run_as_it_is(store: DBStore) -> None:
    store.put_run_log(unfinished_run("SUCCESS"))
    store.add_step_log(step("map", status="SUCCESS"), "run")
    runs.mark_failed(store, "run")
    assert store.get_run_log_by_id("run").status == "SUCCESS" and not runs.read_run(store, "run").notes


@pytest.mark.parametrize("run_id", ["missing", "unreadable"])
def test_mark_failed_needs_a_run_that_can_be_read(store: DBStore, run_id: str) -> None:
    store.table.upsert("unreadable", [("RunLog", "run_log", "{"), ("Step", "a", "{")])
    with pytest.raises(RunNotFoundError, match="whose own row can be read"):
        runs.mark_failed(store, run_id)
    assert [value for _, _, value in store.table.read("unreadable")] == ["{", "{"]


def test_mark_failed_leaves_no_secret_in_the_rows_that_it_writes(store: DBStore) -> None:
    store.create_run_log("run", status="PROCESSING")
    code = {"code_identifier_url": "https://ci:TOKEN@git.example.com/team/sales.git"}
    for attribute_type, key, log in (
        ("Step", "a", step("a", status="PROCESSING", code_identities=[code])),
        ("RunLog", "run_log", RunLog(run_id="run", status="PROCESSING", run_config={"password": "TOKEN"})),
    ):
        store.table.upsert("run", [(attribute_type, key, json.dumps(log.model_dump()))])
    assert runs.mark_failed(store, "run") == ["a"]
    rows = [value for _, _, value in store.table.read("run", ("RunLog", "Step"))]
    assert not any("TOKEN" in value for value in rows) and all(json.loads(value)["marked_failed"] for value in rows)


def test_mark_failed_asks_if_the_run_was_just_seen(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.put_run_log(unfinished_run())
    add_beat(store)
    command = ("mark-failed", "run", "--connection-string", sqlite_file.url)
    assert "may be alive. It was not changed" in db(*command, exit_code=1)
    assert store.get_run_log_by_id("run").status == "PROCESSING"
    assert "as FAIL, with its unfinished steps and branches: map, map.1, map.1.work." in db(*command, "--yes")
    assert store.get_run_log_by_id("run").status == "FAIL"
    assert "has already ended: FAIL" in db(*command, exit_code=1)


def test_mark_failed_notices_that_a_suspended_run_goes_on(project: Project, sqlite_file: SqliteFile) -> None:
    process = start(project, sqlite_file.url)
    store = DBStore(connection_string=sqlite_file.url)
    until(lambda: store.table.has("run", fragments.ENVIRONMENT))  # The heartbeats begin after it.
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: summary(store).is_stale)
    os.kill(process.pid, signal.SIGCONT)
    assert "may be alive" in db("mark-failed", "run", "--connection-string", sqlite_file.url, exit_code=1)
    end(process, project)
    assert summary(store).status == "SUCCESS"


@pytest.mark.parametrize("has_jumped", [True, False])
def test_follow_waits_for_a_heartbeat_if_the_clock_jumped(
    sqlite_file: SqliteFile, monkeypatch: pytest.MonkeyPatch, has_jumped: bool
) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run", status="PROCESSING")
    offsets = itertools.chain([0.0], itertools.repeat(3600.0 * has_jumped))
    monkeypatch.setattr(follow, "clock_offset", lambda: next(offsets))
    add_beat(store, age=1000)
    monkeypatch.setattr(time, "sleep", lambda _: add_beat(store))
    states = follow._poll(store, "run", timedelta(0))
    assert next(states).liveness.is_stale and len([*itertools.islice(states, 1)]) == has_jumped


def test_killed_run_is_marked_run_again_and_pruned(project: Project, sqlite_file: SqliteFile) -> None:
    process = start(project, sqlite_file.url)
    kill(process)
    store = DBStore(connection_string=sqlite_file.url)
    until(lambda: summary(store).is_stale)
    db("mark-failed", "run", "--connection-string", sqlite_file.url)
    assert "pause FAIL └── Marked as failed by" in db("show", "run", "--connection-string", sqlite_file.url)
    (project.folder / "go on").touch()
    project.execute("again", "--use-cached", "run")
    steps = store.get_run_log_by_id("again", full=True).steps
    assert steps["a"].mock and not steps["pause"].mock and steps["pause"].status == "SUCCESS"
    db("prune", "--keep", "1", "--yes", "--connection-string", sqlite_file.url)
    assert store.table.has("run")  # The newer run reuses its step.
    db("prune", "--keep", "0", "--yes", "--connection-string", sqlite_file.url)
    assert not store.table.has("run")


# Following


def test_follow_waits_for_a_run_that_does_not_exist_yet(project: Project, sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("another", status="SUCCESS")
    process = project.start("magnus", "db", "show", "run", "--follow", "--connection-string", sqlite_file.url)
    for line in process.stdout:  # type: ignore[union-attr]
        if "Waiting up to 1m for run 'run'" in line:
            break
    store.create_run_log("run", status="SUCCESS")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "run SUCCESS" in output


@pytest.mark.parametrize(
    ("age", "state", "message"),
    [(1000, "", "is stale: it was last seen 16m 4"), (5, INTERRUPTED, "was interrupted ")],
)
def test_follow_gives_up_on_a_dead_run(sqlite_file: SqliteFile, age: float, state: str, message: str) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run", status="PROCESSING")
    add_beat(store, age, state=state)
    output = db("show", "run", "--follow", "--connection-string", sqlite_file.url, exit_code=2)
    assert f"Gave up: run 'run' {message}" in output
    assert "magnus db mark-failed run" in output


def test_advice_of_follow_can_be_pasted(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run; touch PWNED #", status="PROCESSING")
    add_beat(store, 5, run_id="run; touch PWNED #", state=INTERRUPTED)
    output = db("show", "run", "--follow", "--connection-string", sqlite_file.url, exit_code=2)
    assert "magnus db mark-failed 'run; touch PWNED #'" in output


def test_follow_gives_up_after_the_age_given(project: Project, sqlite_file: SqliteFile) -> None:
    process = start(project, sqlite_file.url)
    follower = project.start("magnus", "db", "show", "run", "--follow", "--give-up-after", "2s", "-c", "config.yaml")
    for line in follower.stdout:  # type: ignore[union-attr]
        if "run PROCESSING" in line:
            break
    kill(process)
    output, _ = follower.communicate(timeout=120)
    assert follower.returncode == 2 and "run STALE" in output


# Who started a run, and when


def test_existing_run_id_is_refused_with_advice(project: Project, sqlite_file: SqliteFile) -> None:
    (project.folder / "go on").touch()
    process = start(project, sqlite_file.url)
    process.communicate(timeout=120)
    assert "Choose an id with --run-id, for example with the date: --run-id run-" in project.execute("run", fails=True)


def test_create_run_log_of_an_existing_run_names_the_option(store: DBStore) -> None:
    store.create_run_log("run")
    with pytest.raises(RunExistsError, match="Choose an id with --run-id"):
        store.create_run_log("run")


@pytest.fixture
def run_in_kiritimati(project: Project, sqlite_file: SqliteFile) -> DBStore:
    """Return the store of a run that a process 14 hours ahead of UTC has executed."""
    project.environment["TZ"] = "Pacific/Kiritimati"
    (project.folder / "go on").touch()
    process = start_and_end(project, sqlite_file.url)
    assert process.returncode == 0
    del project.environment["TZ"]
    return DBStore(connection_string=sqlite_file.url)


def start_and_end(project: Project, url: str) -> "subprocess.Popen[str]":
    config = {"run_log_store": {"type": "db", "config": {"connection_string": url, "heartbeat": INTERVAL}}}
    project.write(functions_py=PAUSE, pipeline_yaml={"dag": {**PIPELINE["dag"], "steps": STEPS}}, config_yaml=config)
    process = project.start("magnus", "execute", "-f", "pipeline.yaml", "-c", "config.yaml", "--run-id", "run")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-3000:]
    return process


def test_times_of_attempts_are_shown_in_local_time(
    project: Project, run_in_kiritimati: DBStore, sqlite_file: SqliteFile
) -> None:
    run = runs.read_run(run_in_kiritimati, "run")
    assert run.utc_offset == 14 * 3600
    assert "UTC+14:00" in timeline.to_html(run)
    shown = db("show", "run", "--step", "pause", "--connection-string", sqlite_file.url)
    assert f"from {run.started.astimezone():%Y-%m-%d %H:}" in shown and "zone unknown" not in shown
    as_json = json.loads(db("show", "run", "--json", "--connection-string", sqlite_file.url))
    assert as_json["utc_offset"] == 14 * 3600 and as_json["user"] and as_json["host"]
    assert as_json["pipeline"] == "pipeline.yaml" and as_json["project"] == project.folder.name


def test_export_and_import_keep_the_utc_offset(run_in_kiritimati: DBStore, tmp_path: Path) -> None:
    [outcome] = runs.export_runs(run_in_kiritimati, ["run"], tmp_path / "exported")
    assert outcome.status == "written"
    target = DBStore(connection_string="sqlite:///:memory:")
    list(runs.import_runs(target, [tmp_path / "exported" / "run.json"]))
    original, imported = (runs.read_run(each, "run") for each in (run_in_kiritimati, target))
    assert imported.utc_offset == 14 * 3600
    assert abs(imported.started - original.started) < timedelta(minutes=1)


def test_zone_of_a_run_without_an_offset_is_unknown(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.put_run_log(RunLog(run_id="run", steps={"a": attempted_step("a", "10:00:00", "10:00:01")}))
    shown = db("show", "run", "--step", "a", "--connection-string", sqlite_file.url)
    assert "from 2024-02-03 10:00:00 to 2024-02-03 10:00:01 (zone unknown)" in shown
    assert "zone unknown" in timeline.to_html(runs.read_run(store, "run"))


def test_zone_of_a_run_on_machines_in_two_zones_is_unknown(store: DBStore) -> None:
    store.create_run_log("run", status="PROCESSING")
    add_beat(store, age=1, utc_offset=0)
    assert runs.read_run(store, "run").utc_offset == 0
    add_beat(store, age=2, utc_offset=3600)
    assert runs.read_run(store, "run").utc_offset is None

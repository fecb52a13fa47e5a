"""Test copies that are repeated, interrupted, or made while runs are written, and deletion during a write."""

import contextlib
import functools
import itertools
import json
import os
import signal
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable, Iterator, List

import hypothesis
import hypothesis.strategies as st
import peewee
import pytest
from concurrency import FORKSERVER
from conftest import SERVERS, AnyDatabase, Database, SqliteFile, database_for, new_store
from logs import sample_run, step
from magnus import exceptions
from test_liveness import any_database, db

from magnus_peewee_store import ConfigurationError, DBStore, runs
from magnus_peewee_store.db.whole_runs import StoredRow
from magnus_peewee_store.runs import annotate, merging
from magnus_peewee_store.runs.transfer import find_differing

__all__ = ["any_database"]  # a fixture
REPETITIONS = int(os.environ.get("COPY_REPETITIONS", "4"))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[DBStore]:
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/source.db")
    yield store
    store.close()


def copy(source: DBStore, target: DBStore, *run_ids: str) -> List[str]:
    """Copy runs. Return which runs were written, and which of them were updated."""
    return [outcome.status for outcome in runs.copy_runs(source, target, run_ids or ["run"])]


def differing(source: DBStore, target: DBStore, *run_ids: str) -> List[str]:
    return list(find_differing(source, target, run_ids or ["run"]))


def test_copy_brings_an_unfinished_run_up_to_date(source: DBStore, store: DBStore) -> None:
    source.create_run_log("run", status="PROCESSING")
    source.add_step_log(step("a", status="PROCESSING"), "run")
    assert copy(source, store) == ["written"]
    source.add_step_log(step("a", status="SUCCESS"), "run")
    source.add_step_log(step("b", status="SUCCESS"), "run")
    source.set_parameters("run", {"x": 1})
    source.update_run_log_status("run", "SUCCESS")
    assert differing(source, store) == ["run"]
    assert copy(source, store) == ["updated"] and differing(source, store) == []
    assert store.get_run_log_by_id("run", full=True) == source.get_run_log_by_id("run", full=True)


def test_copy_skips_equal_runs(source: DBStore, store: DBStore) -> None:
    source.put_run_log(sample_run("run"))
    assert copy(source, store) == ["written"]
    assert copy(source, store) == ["skipped"]


def test_copy_notices_a_change_of_the_same_length(source: DBStore, store: DBStore) -> None:
    source.put_run_log(sample_run("run", status="PROCESSING", parameters={"x": 1}))
    copy(source, store)
    source.set_parameters("run", {"x": 2})
    assert copy(source, store) == ["updated"]
    assert store.get_parameters("run")["x"] == 2


def test_copy_takes_tags_notes_and_heartbeats(source: DBStore, store: DBStore) -> None:
    source.put_run_log(sample_run("run"))
    source.table.upsert("run", [("Heartbeat", "laptop 1 2024", json.dumps({"seen": "2024-02-03 10:00:00"}))])
    copy(source, store)
    runs.tag_run(source, "run", "kept", "dropped")
    runs.add_note(source, "run", "looks good")
    copy(source, store)
    runs.untag_run(source, "run", "dropped")
    copy(source, store)
    copied, original = (runs.read_run(each, "run") for each in (store, source))
    assert copied.tags == ("kept",) and copied.notes == original.notes
    assert store.table.has("run", ("Heartbeat",)) and differing(source, store) == []


def test_copy_keeps_what_only_the_target_has(source: DBStore, store: DBStore) -> None:
    source.put_run_log(sample_run("run"))
    copy(source, store)
    store.set_parameters("run", {"only here": 1})
    assert copy(source, store) == ["skipped"] and "only here" in store.get_parameters("run")
    assert [each.status for each in runs.copy_runs(source, store, ["run"], True)] == ["updated"]
    assert "only here" not in store.get_parameters("run")


def test_copy_keeps_newer_run(source: DBStore, store: DBStore) -> None:
    source.create_run_log("run", status="PROCESSING")
    source.add_step_log(step("a", status="PROCESSING"), "run")
    copy(source, store)
    store.add_step_log(step("a", status="SUCCESS"), "run")
    store.update_run_log_status("run", "SUCCESS")
    assert copy(source, store) == ["skipped"] and differing(source, store) == []
    assert store.get_run_log_by_id("run").status == store.get_step_log("a", "run").status == "SUCCESS"


def test_copy_of_an_ended_run_with_equal_keys_keeps_target_and_says_so(source: DBStore, store: DBStore) -> None:
    source.put_run_log(sample_run("run", parameters={"x": 1}))
    copy(source, store)
    source.set_parameters("run", {"x": 2})
    [outcome] = runs.copy_runs(source, store, ["run"])
    assert outcome.status == "failed" and "copy run --overwrite" in outcome.message
    assert store.get_parameters("run")["x"] == 1 and differing(source, store) == ["run"]


def test_marked_run_moves_on(source: DBStore, store: DBStore) -> None:
    source.create_run_log("run", status="PROCESSING")
    source.add_step_log(step("a", status="PROCESSING"), "run")
    copy(source, store)
    runs.mark_failed(store, "run")
    source.add_step_log(step("a", status="SUCCESS"), "run")
    assert copy(source, store) == ["updated"]
    assert store.get_run_log_by_id("run").status == "PROCESSING"


def test_later_change_of_a_tag_wins(source: DBStore, store: DBStore) -> None:
    source.put_run_log(sample_run("run"))
    runs.tag_run(source, "run", "a", "b")
    copy(source, store)
    runs.untag_run(store, "run", "a")
    runs.tag_run(store, "run", "c")
    assert copy(source, store) == ["skipped"] and runs.read_run(store, "run").tags == ("b", "c")
    assert copy(store, source) == ["updated"] and runs.read_run(source, "run").tags == ("b", "c")


def another_run(source: DBStore, target: DBStore) -> None:
    """Create two runs with one id, created at different times."""
    source.create_run_log("run", tag="source")
    [row] = source.table.read_runs(["run"])
    target.table.insert_run([row._replace(created_at=row.created_at.replace(year=2020))])


def test_copy_keeps_another_run_with_the_same_id(source: DBStore, store: DBStore) -> None:
    another_run(source, store)
    [outcome] = runs.copy_runs(source, store, ["run"])
    assert outcome.status == "skipped" and outcome.message == "skipped: the other database has another run with this id"
    assert differing(source, store) == ["run"]


def test_copy_into_a_legacy_table_brings_runs_up_to_date(source: DBStore, sqlite_file: SqliteFile) -> None:
    columns = "run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT, created_at DATETIME"
    sqlite_file.sql(f"CREATE TABLE db_log (pk INTEGER PRIMARY KEY, {columns})")
    target = DBStore(connection_string=sqlite_file.url)
    source.create_run_log("run", status="PROCESSING")
    copy(source, target)
    source.update_run_log_status("run", "SUCCESS")
    assert copy(source, target) == ["updated"] and differing(source, target) == []
    target.close()


def test_command_copies_verifies_and_says_so(source: DBStore, tmp_path: Path) -> None:
    source.put_run_log(sample_run("run"))
    source.put_run_log(sample_run("another"))
    source.update_run_log_status("run", "PROCESSING")
    url = f"sqlite:///{tmp_path}/target.db"
    command = ("copy", "--verify", "--to", url, "--connection-string", f"sqlite:///{tmp_path}/source.db")
    assert "2 copied. 2 of 2 runs agree in all rows." in db(*command)
    source.set_parameters("run", {"rows": 4})
    assert "0 copied, 1 updated, 1 existed already. 2 of 2 runs agree in all rows." in db(*command)
    target = DBStore(connection_string=url)
    target.table.delete("run")
    target.table.upsert("run", [("Parameter", "x", "1")])
    assert "run: the two databases differ" in db(*command, exit_code=1)


def write_run(url: str, stop: Any) -> None:
    store = DBStore(connection_string=url)
    for number in itertools.count():
        if stop.is_set():
            return
        store.add_step_log(step(f"s{number % 50}", message=str(number)), "run")
        store.set_parameters("run", {"a": number, "b": number})


def copy_until_killed(source: str, target: str, acknowledged: Any) -> None:
    stores = [DBStore(connection_string=url) for url in (source, target)]
    for _ in itertools.count():
        list(runs.copy_runs(*stores, ["finished", "run"]))
        acknowledged.send(None)


def test_copy_while_writing_killed_and_repeated_ends_equal(any_database: AnyDatabase, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/source.db"
    source, target = DBStore(connection_string=url), DBStore(connection_string=any_database.url)
    source.put_run_log(sample_run("finished"))
    source.create_run_log("run", status="PROCESSING")
    stop = FORKSERVER.Event()
    writer = FORKSERVER.Process(target=write_run, args=(url, stop))
    writer.start()
    try:
        for repetition in range(REPETITIONS):
            receiving, sending = FORKSERVER.Pipe(duplex=False)
            copier = FORKSERVER.Process(target=copy_until_killed, args=(url, any_database.url, sending))
            copier.start()
            sending.close()
            with contextlib.suppress(EOFError):
                for _ in range(repetition % 3):
                    receiving.recv()
            os.kill(copier.pid, signal.SIGKILL)
            copier.join()
            with contextlib.suppress(exceptions.RunLogNotFoundError):
                parameters = target.get_parameters("run")
                assert parameters.get("a") == parameters.get("b")  # a copy is never half of a state
    finally:
        stop.set()
        writer.join()
    copy(source, target, "finished", "run")
    assert differing(source, target, "finished", "run") == []
    assert copy(source, target, "finished", "run") == ["skipped"] * 2
    source.close()
    target.close()


def write_until_deleted(url: str, number: int, is_writing: Any) -> None:
    store = DBStore(connection_string=url)
    with contextlib.suppress(exceptions.RunLogNotFoundError):
        for each in itertools.count():
            store.add_step_log(step(f"s{number}-{each}"), "run")
            store.set_parameters("run", {f"p{number}-{each}-{name}": name for name in range(20)})
            is_writing.set()


def test_delete_of_a_run_that_is_written_leaves_no_rows(any_database: AnyDatabase) -> None:
    store = DBStore(connection_string=any_database.url)
    for _ in range(3):
        store.create_run_log("run", status="PROCESSING")
        events = [FORKSERVER.Event() for _ in range(4)]
        writers = [
            FORKSERVER.Process(target=write_until_deleted, args=(any_database.url, number, event))
            for number, event in enumerate(events)
        ]
        for writer in writers:
            writer.start()
        for event in events:
            event.wait(60)
        list(runs.delete_runs(store, ["run"]))
        for writer in writers:
            writer.join()
        assert any_database.sql("SELECT COUNT(*) FROM db_log") == [(0,)]
        assert [writer.exitcode for writer in writers] == [0] * 4
    store.close()


def commit_at_deletion(number: int, deletions: Iterator[int], connection: Any, event: Any) -> None:
    if event.sql.startswith("DELETE") and next(deletions) == number:
        connection.commit()


@pytest.mark.skipif("postgresql+psycopg" not in SERVERS, reason="needs PostgreSQL")
def test_row_committed_after_the_deletion_is_deleted(server_databases: Callable[[str], Database]) -> None:
    for database in database_for("postgresql+psycopg", Path(), server_databases):
        with new_store(database.url) as store, contextlib.closing(database.administrator()) as connection:
            store.create_run_log("run", status="PROCESSING")
            # A statement that began before the deletion: its transaction sees the run's own row.
            connection.autocommit = False
            row = "'run', 'Step', 'late', '{}', LOCALTIMESTAMP"
            connection.cursor().execute(
                "INSERT INTO db_log (run_id, attribute_type, attribute_key, attribute_value, created_at) "
                f"SELECT {row} WHERE EXISTS (SELECT 1 FROM db_log WHERE run_id = 'run')"
            )

            # The second deletion finds no row, and ends the first sweep.
            hooks = store.database.query_hooks
            hooks.append(functools.partial(commit_at_deletion, 2, itertools.count(1), connection))
            list(runs.delete_runs(store, ["run"]))
            assert database.sql("SELECT COUNT(*) FROM db_log") == [(0,)]


def tag_and_untag(number: int, url: str) -> None:
    real = annotate.utcnow
    annotate.utcnow = lambda: real() + timedelta(hours=number)  # a machine whose clock is wrong
    with contextlib.closing(DBStore(connection_string=url)) as store:
        for _ in range(40):
            runs.tag_run(store, "run", "best")
            runs.untag_run(store, "run", "best")


def test_later_change_of_a_tag_has_the_later_time_on_any_clock(store: DBStore, database: AnyDatabase) -> None:
    store.create_run_log("run")
    writers = [FORKSERVER.Process(target=tag_and_untag, args=(number, database.url)) for number in range(2)]
    for writer in writers:
        writer.start()
    times: List[str] = []
    while any(writer.is_alive() for writer in writers):
        times += [json.loads(value)["changed"] for _, _, value in store.table.read("run", ("Tag",))]
    assert times == sorted(times) and len(set(times)) > 10
    assert [writer.exitcode for writer in writers] == [0, 0]


def other_names_of(database: AnyDatabase, tmp_path: Path) -> List[str]:
    """Return other connection strings of the same database."""
    if isinstance(database, SqliteFile):
        (tmp_path / "link.db").symlink_to(database.path)
        os.link(database.path, tmp_path / "hard.db")
        return [f"sqlite:///{tmp_path}/{name}.db" for name in ("link", "hard")]
    address = database.url.partition("://")[2]
    driver = "postgresql+psycopg" if database.url.startswith("postgresql") else "mysql+mysqlconnector"
    return [database.url.replace("127.0.0.1", "localhost"), f"{driver}://{address}"]


def test_copy_into_the_same_database_is_refused(store: DBStore, database: AnyDatabase, tmp_path: Path) -> None:
    store.put_run_log(sample_run("run"))
    for url in other_names_of(database, tmp_path):
        target = DBStore(connection_string=url)
        with contextlib.closing(target), pytest.raises(ConfigurationError, match="is the one that contains the runs"):
            copy(store, target)
    assert runs.check(store).is_healthy and runs.check(store).rows.keys() == {"RunLog", "Step", "Branch", "Parameter"}


def test_copies_at_once_both_end_well(source: DBStore, store: DBStore, database: AnyDatabase) -> None:
    for number in range(10):
        source.put_run_log(sample_run(f"run {number}"))
    run_ids = [f"run {number}" for number in range(10)]
    with contextlib.closing(DBStore(connection_string=database.url)) as other:
        outcomes = [
            list(each)
            for each in zip(runs.copy_runs(source, store, run_ids), runs.copy_runs(source, other, run_ids[::-1]))
        ]
    assert not [each for pair in outcomes for each in pair if each.status == "failed"]
    assert differing(source, store, *run_ids) == []


def test_full_target_names_the_target(source: DBStore, sqlite_file: SqliteFile) -> None:
    source.put_run_log(sample_run("run", parameters={"large": "x" * 2_000_000}))
    with contextlib.closing(DBStore(connection_string=sqlite_file.url)) as target:
        target.create_run_log("other")
        [[pages]] = target.database.execute_sql("PRAGMA page_count").fetchall()
        target.database.execute_sql(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(peewee.DatabaseError, match=rf"Cannot write to {sqlite_file.url}: .*full"):
            copy(source, target)
    assert copy(source, target) == ["written"]


def copy_in_killed_process(source: DBStore, target: DBStore, number: int) -> None:
    """Copy in a process that is killed after it has written this number of rows. It may end before."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    writes = itertools.count(1)

    def kill(event: Any) -> None:
        if not event.sql.startswith("SELECT") and next(writes) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        target.database.query_hooks.append(kill)
        copy(source, target)
    finally:
        os._exit(0)


def rows_of(store: DBStore) -> List[StoredRow]:
    return list(store.table.read_runs(["run"]))


COPIES = st.tuples(st.sampled_from(["copy there", "copy back"]), st.sampled_from([None, 1, 2, 3]))
ACTIONS = st.tuples(
    st.sampled_from(["work", "fail", "mark", "resume", "succeed", "tag", "untag", "note"]), st.booleans()
)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(ACTIONS | COPIES, max_size=25))
@hypothesis.example([("work", True), ("work", True), ("copy there", 1)])
def test_copies_in_both_directions_never_go_back(actions: List[Any]) -> None:
    """The run works in one database at a time. Tags and notes are written to either. Copies may be killed."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stores = [stack.enter_context(new_store(f"sqlite:///{folder}/{name}.db")) for name in ("live", "there")]
        check_that_copies_never_go_back(actions, stores)


def check_that_copies_never_go_back(actions: List[Any], stores: List[DBStore]) -> None:
    live, there = stores
    live.create_run_log("run", status="PROCESSING")
    is_tagged, steps = False, 0
    newest = [merging.run_key([])] * 2
    copy(live, there)
    for action, choice in actions:
        store = live if choice else there  # of the actions that are no copies
        if action == "work":
            live.add_step_log(step(f"step {steps}", status="SUCCESS"), "run")
            steps += 1
        elif action in ("fail", "resume", "succeed"):
            status = {"fail": "FAIL", "resume": "PROCESSING", "succeed": "SUCCESS"}[action]
            if live.get_run_log_by_id("run").status == "SUCCESS":
                continue
            live.update_run_log_status("run", status)
        elif action == "mark":
            runs.mark_failed(store, "run")
        elif action == "tag":
            runs.tag_run(store, "run", "t")
            is_tagged = True
        elif action == "untag":
            is_tagged = is_tagged and "t" not in runs.read_run(store, "run").tags
            runs.untag_run(store, "run", "t")
        elif action == "note":
            runs.add_note(store, "run", "a note")
        else:
            source, target = stores if action == "copy there" else reversed(stores)
            wanted, present = rows_of(source), rows_of(target)
            copy(source, target) if choice is None else copy_in_killed_process(source, target, choice)
            copied = rows_of(target)
            assert copied == present or not merging.merge(wanted, copied).write  # never half of a copy
        keys = [merging.run_key(rows_of(each)) for each in stores]
        if action.startswith("copy"):
            assert all(key >= before for key, before in zip(keys, newest))
        newest = keys
    notes = {note for each in stores for note in runs.read_run(each, "run").notes}
    copy(live, there)
    copy(there, live)
    assert len(live.get_run_log_by_id("run", full=True).steps) == steps
    for each in stores:
        run = runs.read_run(each, "run")
        assert {*run.notes} == notes and run.tags == (("t",) if is_tagged else ())


def test_copy_reports_a_run_that_was_deleted_meanwhile(source: DBStore, store: DBStore) -> None:
    for run_id in ("first", "second"):
        source.put_run_log(sample_run(run_id))
    outcomes = runs.copy_runs(source, store, ["first", "gone", "second"])
    assert [(each.name, each.status, each.message) for each in outcomes] == [
        ("first", "written", ""),
        ("gone", "failed", "it was deleted in the meantime"),
        ("second", "written", ""),
    ]

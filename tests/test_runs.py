"""Test listing, finding, reading and comparing runs."""

import io
import json
import math
import sqlite3
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Iterator, List

import pytest
from conftest import AnyDatabase, SqliteFile
from logs import sample_run, step
from magnus.datastore import RunLog, StepAttempt
from rich.console import Console
from servers import Database

from magnus_peewee_store import DBStore, RunNotFoundError, fragments, runs
from magnus_peewee_store.cli import trees
from magnus_peewee_store.runs.compare import StepState
from magnus_peewee_store.store import STARTED_BY
from magnus_peewee_store.timeline import to_html
from magnus_peewee_store.timeline.layout import lay_out


def as_json(log: Any) -> str:
    """Dump a log as text, because NaN is not equal to itself but its text is."""
    return json.dumps(log.model_dump())


def make_unreadable(database: AnyDatabase, run_id: str, attribute_type: str) -> None:
    statement = "UPDATE db_log SET attribute_value = ? WHERE run_id = ? AND attribute_type = ?"
    database.sql(statement, "{unreadable", run_id, attribute_type)


def run_ids_of(found: List[Any]) -> List[str]:
    return [run.run_id for run in found]


def test_list_runs_newest_first(store: DBStore) -> None:
    before = datetime.now(timezone.utc)
    store.put_run_log(sample_run("good", tag="nightly"))
    store.put_run_log(sample_run("bad", status="FAIL"))
    bad, good = runs.list_runs(store)
    assert before <= good.started <= bad.started <= datetime.now(timezone.utc)
    loss = good.metrics.pop("each.jan.csv.work.loss")
    assert math.isnan(loss) and math.isnan(good.metrics.pop("each.feb.csv.work.loss"))
    assert good == runs.RunSummary(
        run_id="good",
        status="SUCCESS",
        tag="nightly",
        started=good.started,
        duration=6.0,
        steps_done=4,
        steps_known=4,
        failed_step=None,
        unreadable=[],
        params={"rows": 3, "files": ["jan.csv", "feb.csv"]},
        commit="5f0f5e2",
        metrics={"each.jan.csv.work.score.deep": [1, None], "each.feb.csv.work.score.deep": [1, None]},
    )
    assert bad.steps_done == 2 and bad.failed_step == "each.feb.csv.work"


def test_duration_of_unfinished_run_grows(store: DBStore) -> None:
    store.create_run_log("run", status="PROCESSING")
    [first], [second] = runs.list_runs(store), runs.list_runs(store)
    assert 0 <= first.duration < second.duration
    assert first.steps_known == 0


@pytest.mark.parametrize("tag", ["nightly", '50% of "a_b" \\ \u00e9', "\U0001f511"])
def test_list_runs_filters_by_exact_status_and_tag(store: DBStore, tag: str) -> None:
    for number in range(8):
        store.create_run_log(f"run {number}", tag=tag if number % 2 else tag.upper() + "x", status="SUCCESS")
    store.create_run_log("failed", tag=tag, status="FAIL")
    assert run_ids_of(runs.list_runs(store, tag=tag)) == ["failed", "run 7", "run 5", "run 3", "run 1"]
    assert run_ids_of(runs.list_runs(store, tag=tag, limit=2)) == ["failed", "run 7"]
    assert run_ids_of(runs.list_runs(store, tag=tag, status="SUCCESS", limit=1)) == ["run 7"]
    assert runs.list_runs(store, tag="fail") == []


def test_status_filter_ignores_the_run_config(store: DBStore) -> None:
    for number in range(10):
        store.create_run_log(f"run {number}", status="FAIL" if number == 0 else "SUCCESS")
        store.set_run_config(f"run {number}", {"says": {"status": "FAIL"}})
    assert run_ids_of(runs.list_runs(store, status="FAIL", limit=1)) == ["run 0"]


def test_list_runs_filters_by_start_time(store: DBStore) -> None:
    store.create_run_log("old")
    aware_time = datetime.now(timezone.utc)
    store.create_run_log("new")
    assert run_ids_of(runs.list_runs(store, since=aware_time)) == ["new"]
    naive_local_time = aware_time.astimezone().replace(tzinfo=None)
    assert run_ids_of(runs.list_runs(store, since=naive_local_time)) == ["new"]
    other_zone_time = aware_time.astimezone(timezone(timedelta(hours=9)))
    assert run_ids_of(runs.list_runs(store, since=other_zone_time)) == ["new"]


def test_find_run_accepts_a_unique_prefix(store: DBStore) -> None:
    for run_id in ("calm-hoover-0900", "calm-hoover", "calm-curie", "100%_sure"):
        store.create_run_log(run_id)
    assert runs.find_run(store, "calm-hoover") == "calm-hoover"
    assert runs.find_run(store, "calm-hoover-") == "calm-hoover-0900"
    assert runs.find_run(store, "100%_") == "100%_sure"
    with pytest.raises(RunNotFoundError, match="More than one run begins with 'calm-': calm-curie, calm-hoover, c"):
        runs.find_run(store, "calm-")
    for unknown_id, similar_id in (
        ("calm-hover", "calm-hoover"),
        ("clam-c", "calm-curie"),
        ("Calm-Curie", "calm-curie"),
    ):
        with pytest.raises(RunNotFoundError, match=f"There is no run '{unknown_id}'. Did you mean .*{similar_id}"):
            runs.find_run(store, unknown_id)
    for unknown_id in ("", "1__", "zzz"):
        with pytest.raises(RunNotFoundError, match=f"^There is no run '{unknown_id}'.$"):
            runs.read_run(store, unknown_id)


def test_read_run_returns_the_full_run_log(store: DBStore) -> None:
    store.put_run_log(sample_run("run"))
    run = runs.read_run(store, "r")
    assert as_json(run.run_log) == as_json(store.get_run_log_by_id("run", full=True))
    assert run.started == runs.list_runs(store)[0].started and run.unreadable == []


@pytest.mark.parametrize("value", ["{unreadable", "[1]", '"text"', "", '{"name": []}', "[" * 100_000])
def test_unreadable_row_does_not_affect_other_rows(store: DBStore, database: AnyDatabase, value: str) -> None:
    store.put_run_log(sample_run("run"))
    store.create_run_log("other", status="SUCCESS")
    store.add_step_log(step("unreadable"), "run")
    database.sql("UPDATE db_log SET attribute_value = ? WHERE attribute_key = ?", value, "unreadable")
    database.sql("UPDATE db_log SET attribute_type = ? WHERE attribute_key = ?", "Metric", "rows")
    run = runs.read_run(store, "run")
    assert [each[:3] for each in run.unreadable] == [("run", "Metric", "rows"), ("run", "Step", "unreadable")]
    assert all(each.reason and "\n" not in each.reason for each in run.unreadable)
    expected = sample_run("run")
    del expected.parameters["rows"]
    assert as_json(run.run_log) == as_json(expected)
    other, listed = runs.list_runs(store)
    assert (other.unreadable, listed.unreadable) == ([], ["Step unreadable"])
    assert (listed.steps_done, listed.steps_known) == (4, 5)


def test_run_with_unreadable_header_keeps_its_steps(store: DBStore, database: AnyDatabase) -> None:
    store.put_run_log(sample_run("run"))
    make_unreadable(database, "run", "RunLog")
    run = runs.read_run(store, "run")
    assert run.run_log.status == "UNKNOWN" and run.started is not None
    assert as_json(run.run_log) == as_json(sample_run("run", "UNKNOWN", steps=sample_run("run").steps))
    assert [each.attribute_type for each in run.unreadable] == ["RunLog"]
    [listed] = runs.list_runs(store)
    assert (listed.status, listed.steps_done, listed.unreadable) == ("UNKNOWN", 4, ["RunLog run_log"])
    database.sql("DELETE FROM db_log WHERE attribute_type = ?", "RunLog")
    assert runs.list_runs(store) == []
    assert runs.read_run(store, "run").run_log.steps.keys() == {"load", "each"}


def test_diff_of_equal_runs_is_empty(store: DBStore) -> None:
    store.put_run_log(sample_run("run"))
    run_log = store.get_run_log_by_id("run", full=True)
    assert not any(runs.diff(run_log, store.get_run_log_by_id("run", full=True)))


def test_diff_shows_the_values_of_both_runs() -> None:
    a, b = sample_run("a", tag="x", dag_hash="1"), sample_run("b", status="FAIL", dag_hash="1")
    b.parameters = {"rows": 4, "files": ["jan.csv", "feb.csv"], "more": {"deep": None}}
    b.steps["load"].code_identities[0].code_identifier = "9999999"
    b.steps["load"].user_defined_metrics = {"size": {"mb": 2}}
    del b.steps["each"].branches["each.jan.csv"]
    found = runs.diff(a, b)
    assert found.run == {"status": {"a": "SUCCESS", "b": "FAIL"}, "tag": {"a": "x", "b": ""}}
    assert found.parameters == {"rows": {"a": 3, "b": 4}, "more.deep": {"b": None}}
    assert found.metrics.pop("load.size.mb") == {"b": 2}
    assert found.metrics.keys() == {"each.jan.csv.work.loss", "each.jan.csv.work.score.deep"}
    assert math.isnan(found.metrics["each.jan.csv.work.loss"]["a"])
    assert found.code == {"version": {"a": "git 5f0f5e2", "b": "git 9999999"}}
    assert found.steps == {
        "each": {"a": StepState("SUCCESS", None), "b": StepState("FAIL", None)},
        "each.jan.csv.work": {"a": StepState("SUCCESS", 1.0)},
        "each.feb.csv.work": {"a": StepState("SUCCESS", 1.0), "b": StepState("FAIL", 1.0)},
    }


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# There, the clock was changed at 02:00 local time.
@pytest.mark.parametrize("day", ["2024-03-10", "2024-11-03"])
def test_duration_across_a_change_of_the_clock_uses_the_recorded_offset(
    store: DBStore, in_new_york: None, day: str
) -> None:
    attempt = {"start_time": f"{day} 00:30:00", "end_time": f"{day} 03:30:00", "status": "SUCCESS"}
    work = step("work", status="SUCCESS", attempts=[StepAttempt(attempt_number=1, **attempt)])
    config = {STARTED_BY: {"user": "ann", "host": "server", "folder": "here", "utc_offset": 0}}
    store.put_run_log(RunLog(run_id="run", status="SUCCESS", steps={"work": work}, run_config=config))
    unknown = RunLog(run_id="unknown", status="SUCCESS", steps={"work": work})
    store.put_run_log(unknown)
    [found] = runs.search(store, ["duration>=3h", "duration<=3h", "run_id=run"])
    assert found.duration == 3 * 3600.0
    run = runs.read_run(store, "run")
    assert run.duration == 3 * 3600.0
    assert runs.compare([run, runs.read_run(store, "unknown")]).steps["work"]["run"].duration == 3 * 3600.0
    tree = Console(width=100, file=io.StringIO())
    tree.print(trees.run_tree(run, is_full=True), trees.step_tree(work, run))
    assert tree.file.getvalue().count(" 3h") == 4  # the run, its step, the step alone, its attempt
    page = to_html(run)
    assert {mark.details["Duration"] for row in lay_out(run)[0] for mark in row.marks} == {"3h"}
    assert f"{day} 00:30:00.000" in page and f"{day} 03:30:00.000" in page
    # Without a recorded offset, the reader's own clock counts.
    assert runs.search(store, "run_id=unknown")[0].duration == runs.read_run(store, "unknown").duration != 3 * 3600.0


def test_duration_uses_the_offset_only_if_all_processes_have_it(store: DBStore, in_new_york: None) -> None:
    attempt = {"start_time": "2024-03-10 00:30:00", "end_time": "2024-03-10 03:30:00", "status": "SUCCESS"}
    work = step("work", status="SUCCESS", attempts=[StepAttempt(attempt_number=1, **attempt)])
    config = {STARTED_BY: {"user": "ann", "host": "laptop", "folder": "here", "utc_offset": -5 * 3600}}
    store.put_run_log(RunLog(run_id="run", status="SUCCESS", steps={"work": work}, run_config=config))
    beat = {"seen": "2024-03-10 08:00:00", "interval": 60, "state": "", "user": "ann", "host": "laptop"}
    store.table.upsert("run", [("Heartbeat", "laptop 1", json.dumps({**beat, "utc_offset": None}))])
    # The process saw its own offset change, so its times are those of the reader's clock.
    assert runs.search(store)[0].duration == runs.read_run(store, "run").duration == 2 * 3600.0


def test_queries_use_an_index(store: DBStore, database: AnyDatabase) -> None:
    """Check the query plans of SQLite and PostgreSQL. PostgreSQL uses an index only if there are many runs."""
    if isinstance(database, Database) and database.scheme.startswith("mysql"):
        pytest.skip("MySQL prints its plans in another format")
    store.put_run_log(sample_run("run"))
    columns = "attribute_type, attribute_key, attribute_value, created_at"
    database.sql(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
        f"INSERT INTO db_log (run_id, {columns}) SELECT 'run ' || i, {columns} FROM db_log, n"
    )
    if isinstance(database, Database):
        database.sql("ANALYZE db_log")
    statements: List[Any] = []
    peewee_database = store.database
    execute = peewee_database.execute_sql
    peewee_database.execute_sql = lambda *query, **options: statements.append(query) or execute(*query, **options)
    assert len(runs.list_runs(store)) == 20
    assert len(runs.list_runs(store, since=datetime.now(timezone.utc) - timedelta(days=1), limit=3)) == 3
    runs.read_run(store, "run 7")
    assert runs.find_run(store, "run 2999") == "run 2999"
    reads = [query for query in statements if query[0].startswith("SELECT") and "db_log" in query[0]]
    assert len(reads) >= 5
    for sql, values in reads:
        prefix = "EXPLAIN QUERY PLAN " if isinstance(database, SqliteFile) else "EXPLAIN "
        plan = "\n".join(str(line) for line in execute(prefix + sql, values).fetchall())
        assert "INDEX" in plan.upper(), plan
        assert "Seq Scan" not in plan and "SCAN db_log\n" not in f"{plan}\n", plan


def test_legacy_table_is_readable(sqlite_file: SqliteFile) -> None:
    """The table of the older extension has no index, other attribute types, and duplicate rows."""
    connection = sqlite3.connect(str(sqlite_file.path))
    columns = "run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT, created_at DATETIME"
    connection.execute(f"CREATE TABLE db_log (pk INTEGER PRIMARY KEY, {columns})")
    rows = fragments.dump_run_log(sample_run("run"))
    legacy_types = {"Step": "StepLog", "Branch": "BranchLog"}
    header = fragments.dump_header(RunLog(run_id="run", status="PROCESSING"))
    for second, row in enumerate([header, *rows]):
        values = ("run", row[1], legacy_types.get(row[0], row[0]), row[2], f"2020-01-01 00:00:{second:02}")
        connection.execute("INSERT INTO db_log VALUES (NULL, ?, ?, ?, ?, ?)", values)
    connection.commit()
    connection.close()
    store = DBStore(connection_string=sqlite_file.url)
    [listed] = runs.list_runs(store)
    assert (listed.status, listed.steps_done) == ("SUCCESS", 4)
    assert as_json(runs.read_run(store, "run").run_log) == as_json(sample_run("run"))
    assert runs.list_runs(store, status="PROCESSING") == []
    store.close()

"""Test the views for SQL clients on every database."""

import json
import math
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from click.testing import CliRunner
from concurrency import run_in_processes
from conftest import SERVERS, AnyDatabase, Database, database_for, new_store
from logs import attempted_step, step
from magnus.datastore import BranchLog, RunLog
from test_liveness import add_beat

from magnus_peewee_store import DBStore, cli, runs


def magnus_db(database: AnyDatabase, *arguments: str) -> str:
    result = CliRunner().invoke(cli.db, [*arguments, "--connection-string", database.url])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def views(store: DBStore, database: AnyDatabase) -> Iterator[AnyDatabase]:
    """Yield a database with the views on two runs, and drop the views afterwards."""
    metrics = {
        "rmse": 0.25,
        "loss": math.nan,
        "n": 3,
        "name \U0001f600": "x\u00e9",
        "deep": {"a": 1},
        "ok": True,
        "no": None,
    }
    for run_id, rmse in (("good", 0.25), ("bad", 0.75)):
        train = step("train", user_defined_metrics={**metrics, "rmse": rmse})
        parameters = {"lr": 0.1, "optimizer": "adam", "limit": math.inf, "none": None}
        store.put_run_log(RunLog(run_id=run_id, steps={"train": train}, parameters=parameters))
    store.put_run_log(RunLog(run_id="broken", steps={"load": step("load")}))
    database.sql("UPDATE db_log SET attribute_value = ? WHERE attribute_key = ?", "{", "load")
    names = ("run_metrics", "run_params", "run_steps", "run_summary")
    assert magnus_db(database, "create-views") == "".join(f"Created the view {name}.\n" for name in names)
    yield database
    magnus_db(database, "create-views", "--drop")


def rows(database: AnyDatabase, statement: str) -> List[Tuple[Any, ...]]:
    return [tuple(row) for row in database.sql(statement)]


def test_metrics_have_numbers_and_texts(views: AnyDatabase) -> None:
    found = rows(views, "SELECT step, metric, value, text FROM run_metrics WHERE run_id = 'good' ORDER BY metric")
    values = {metric: (name, value, text and text.replace(" ", "")) for name, metric, value, text in found}
    assert values == {
        "rmse": ("train", 0.25, "0.25"),
        "loss": ("train", None, "NaN"),
        "n": ("train", 3, "3"),
        "name \U0001f600": ("train", None, "x\u00e9"),
        "deep": ("train", None, '{"a":1}'),
        "ok": ("train", None, "true"),
        "no": ("train", None, None),
    }


def test_parameters_have_numbers_and_texts(views: AnyDatabase) -> None:
    found = rows(views, "SELECT param, value, text FROM run_params WHERE run_id = 'good' ORDER BY param")
    assert found == [
        ("limit", None, "Infinity"),
        ("lr", 0.1, "0.1"),
        ("none", None, None),
        ("optimizer", None, "adam"),
    ]


def put_run(store: DBStore, run_id: str, status: str = "SUCCESS", **origin: Any) -> None:
    """Write a run with two steps, one in a branch, that took from 10:00 to 10:00:03.250 of its local time."""
    code = [{"code_identifier": "5f0f5e2", "code_identifier_type": "git"}]
    work = attempted_step("map.1.work", "10:00:01", "10:00:03.250000", code_identities=code)
    branch = BranchLog(internal_name="map.1", steps={"map.1.work": work})
    steps = {
        "load": attempted_step("load", "10:00:00", "10:00:01", code_identities=code),
        "map": step("map", step_type="map", status=status, branches={"map.1": branch}),
        "success": attempted_step("success", "11:00:00", "11:00:00", step_type="success"),
    }
    config = {"pipeline_file": "sales.yaml", "started_by": origin} if origin else {}
    store.put_run_log(RunLog(run_id=run_id, status=status, tag="nightly", run_config=config, steps=steps))


SUMMARY = "run_id, status, started, ended, duration_s, tag, pipeline, {user}, host, {commit}"


def summary_of(database: AnyDatabase, store: DBStore, run_id: str) -> Tuple[Any, ...]:
    columns = SUMMARY.format(user=store.database.quoted("user"), commit=store.database.quoted("commit"))
    [row] = rows(database, f"SELECT {columns} FROM run_summary WHERE run_id = '{run_id}'")
    return row


def test_summary_has_a_row_per_run(views: AnyDatabase, store: DBStore) -> None:
    put_run(store, "run", user="ann", host="laptop", utc_offset=3600)
    put_run(store, "running", "PROCESSING", user="ann", host="laptop", utc_offset=0)
    put_run(store, "without", "FAIL")
    [run] = runs.search(store, "run_id=run")
    row = summary_of(views, store, "run")
    assert run.started and str(row[2])[:19] == f"{run.started:%Y-%m-%d %H:%M:%S}"
    assert str(row[3])[:23] == "2024-02-03 09:00:03.250" and row[4] == run.duration == 3.25
    assert (row[:2], row[5:]) == (("run", "SUCCESS"), ("nightly", "sales.yaml", "ann", "laptop", "5f0f5e2"))
    assert summary_of(views, store, "running")[1:5:2] == ("PROCESSING", None)
    without = summary_of(views, store, "without")
    assert without[1] == "FAIL" and without[3:9] == (None, None, "nightly", None, None, None)
    assert len(rows(views, "SELECT * FROM run_summary")) == 6
    assert len(rows(views, "SELECT * FROM run_summary")[0]) == 10


def test_steps_have_their_times_in_utc(views: AnyDatabase, store: DBStore) -> None:
    put_run(store, "run", user="ann", utc_offset=-7200)
    select = "SELECT step, step_type, status, started, ended, duration_s FROM run_steps WHERE run_id = 'run'"
    found = {row[0]: row[1:] for row in rows(views, f"{select} ORDER BY step")}
    assert found.keys() == {"load", "map", "map.1.work"}  # not the node that ends the graph
    assert found["map"] == ("map", "SUCCESS", None, None, None)
    _, status, started, ended, seconds = found["map.1.work"]
    assert (status, str(started)[:19], str(ended)[:23]) == ("SUCCESS", "2024-02-03 12:00:01", "2024-02-03 12:00:03.250")
    assert seconds == 2.25


@pytest.mark.parametrize("offset", [None, "x", 1e300, [1], 3600.5, -999999])
def test_end_is_null_without_a_usable_offset(views: AnyDatabase, store: DBStore, offset: Any) -> None:
    put_run(store, "run", user="ann", host="laptop", utc_offset=offset)
    assert summary_of(views, store, "run")[3:5] == (None, None)


def test_end_is_null_if_the_clock_was_changed(views: AnyDatabase, store: DBStore) -> None:
    for run_id, offset in (("run", 3600), ("changed", None), ("moved", 36)):
        put_run(store, run_id, user="ann", host="laptop", utc_offset=3600)
        add_beat(store, 0, run_id, utc_offset=offset)
    ends = [summary_of(views, store, run_id)[3] is None for run_id in ("run", "changed", "moved")]
    assert ends == [False, True, True]


def test_damaged_rows_do_not_break_the_summary(views: AnyDatabase, store: DBStore) -> None:
    for run_id in ("good one", "bad step", "bad time", "bad run"):
        put_run(store, run_id, user="ann", host="laptop", utc_offset=0)
    update = "UPDATE db_log SET attribute_value = ? WHERE run_id = ? AND attribute_key = ?"
    views.sql(update, "{", "bad step", "load")
    views.sql(update, "[1]", "bad run", "run_log")
    times = {
        "attempts": [{"start_time": "2024-99-03 10:00:00", "end_time": 7}],
        "status": "SUCCESS",
        "step_type": "task",
    }
    views.sql(update, json.dumps(times), "bad time", "load")
    assert summary_of(views, store, "good one")[4] == 3.25
    for run_id in ("bad step", "bad time"):
        assert summary_of(views, store, run_id)[4] == 2.25
    assert summary_of(views, store, "bad run")[1] is None


def test_recipe_for_the_best_runs(views: AnyDatabase) -> None:
    recipe = """
        SELECT metrics.run_id, metrics.value AS rmse, params.value AS lr
        FROM run_metrics AS metrics
        LEFT JOIN run_params AS params ON params.run_id = metrics.run_id AND params.param = 'lr'
        WHERE metrics.metric = 'rmse'
        ORDER BY rmse
        LIMIT 10
    """
    assert rows(views, recipe) == [("good", 0.25, 0.1), ("bad", 0.75, 0.1)]


def test_recipe_for_a_metric_over_time(views: AnyDatabase) -> None:
    recipe = """
        SELECT runs.created_at AS time, metrics.value
        FROM run_metrics AS metrics
        JOIN db_log AS runs ON runs.run_id = metrics.run_id AND runs.attribute_type = 'RunLog'
        WHERE metrics.metric = 'rmse'
        ORDER BY runs.created_at
    """
    assert [value for _, value in rows(views, recipe)] == [0.25, 0.75]


def test_recipe_for_a_table_of_metrics(views: AnyDatabase) -> None:
    recipe = """
        SELECT run_id,
               MAX(CASE WHEN metric = 'rmse' THEN value END) AS rmse,
               MAX(CASE WHEN metric = 'n' THEN value END) AS n
        FROM run_metrics
        GROUP BY run_id
        ORDER BY run_id
    """
    assert rows(views, recipe) == [("bad", 0.75, 3), ("good", 0.25, 3)]


def test_views_can_be_created_again_and_dropped(views: AnyDatabase) -> None:
    assert "Created the view run_metrics." in magnus_db(views, "create-views")
    assert magnus_db(views, "create-views", "--drop").count("Dropped the view") == 4
    assert magnus_db(views, "create-views", "--drop") == "There are no views to drop.\n"


def test_any_number_has_its_text(views: AnyDatabase, store: DBStore) -> None:
    numbers = {"sum": 0.1 + 0.2, "third": 1 / 3, "huge": 10**400, "tiny": 5e-324, "large": 1e300}
    store.set_parameters("good", numbers)
    texts = dict(rows(views, "SELECT param, text FROM run_params WHERE run_id = 'good'"))
    values = dict(rows(views, "SELECT param, value FROM run_params WHERE run_id = 'good'"))
    assert {name: float(texts[name]) for name in numbers if name != "huge"} == {
        name: number for name, number in numbers.items() if name != "huge"
    }
    assert (values["sum"], values["third"]) == (0.1 + 0.2, 1 / 3)


def test_processes_that_create_views_at_once_all_succeed(views: AnyDatabase) -> None:
    run_in_processes(4, create_views_often, views.url)
    assert len(rows(views, "SELECT * FROM run_params WHERE run_id = 'good'")) == 4


def create_views_often(_: int, url: str) -> None:
    with new_store(url, retry_timeout=60) as store:
        for _ in range(3):
            runs.create_views(store)


@pytest.mark.skipif("postgresql+psycopg" not in SERVERS, reason="needs PostgreSQL")
def test_views_are_in_the_schema_of_the_table(server_databases: Callable[[str], Database]) -> None:
    for database in database_for("postgresql+psycopg", Path(), server_databases):
        for schema in ("team_a", "team_b"):
            database.sql(f"CREATE SCHEMA {schema}")
            database.sql(f"GRANT ALL ON SCHEMA {schema} TO PUBLIC")
            with new_store(f"{database.url}?schema={schema}") as store:
                store.put_run_log(RunLog(run_id=schema, parameters={"lr": 0.1}))
                runs.create_views(store)
        assert rows(database, "SELECT run_id, value FROM team_a.run_params") == [("team_a", 0.1)]
        with new_store(f"{database.url}?schema=team_b") as store:
            assert runs.drop_views(store) == ["run_metrics", "run_params", "run_steps", "run_summary"]
        assert rows(database, "SELECT run_id, value FROM team_a.run_params") == [("team_a", 0.1)]
        assert rows(database, "SELECT schemaname FROM pg_views WHERE viewname = 'run_params'") == [("team_a",)]
        for schema in ("team_a", "team_b"):
            database.sql(f"DROP SCHEMA {schema} CASCADE")


def test_series_have_a_row_for_each_point(views: AnyDatabase, store: DBStore) -> None:
    metrics = {
        "loss": {"10": 0.5, "9": 0.75, "-1": math.nan},
        "eval": {"0": {"f1": 1, "recall": 0.5}, "1": {"f1": 2, "deep": {"x": 1}}, "2": {}, "3": "none"},
        "single": {"7": 1},
        "sizes": {"1": 1, "01": 2},
    }
    store.add_step_log(step("train", user_defined_metrics=metrics), "good")
    found = rows(views, "SELECT metric, iteration, value, text FROM run_metrics WHERE run_id = 'good'")
    values = {row[:2]: row[2] if row[2] is not None else row[3].replace(" ", "") for row in found}
    assert len(values) == len(found)
    assert values == {
        ("loss", -1): "NaN",
        ("loss", 9): 0.75,
        ("loss", 10): 0.5,
        ("eval.f1", 0): 1,
        ("eval.recall", 0): 0.5,
        ("eval.f1", 1): 2,
        ("eval.deep", 1): '{"x":1}',
        ("eval", 2): "{}",
        ("eval", 3): "none",
        ("single", None): '{"7":1}',
        ("sizes", None): '{"1":1,"01":2}',
    }

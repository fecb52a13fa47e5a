"""Test the views for SQL clients on every database."""

import math
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from click.testing import CliRunner
from concurrency import run_in_processes
from conftest import SERVERS, AnyDatabase, Database, database_for, new_store
from logs import step
from magnus.datastore import RunLog

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
    assert magnus_db(database, "create-views") == "Created the view run_metrics.\nCreated the view run_params.\n"
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
    assert magnus_db(views, "create-views", "--drop").count("Dropped the view") == 2
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
            assert runs.drop_views(store) == ["run_metrics", "run_params"]
        assert rows(database, "SELECT run_id, value FROM team_a.run_params") == [("team_a", 0.1)]
        assert rows(database, "SELECT schemaname FROM pg_views WHERE viewname = 'run_params'") == [("team_a",)]
        for schema in ("team_a", "team_b"):
            database.sql(f"DROP SCHEMA {schema} CASCADE")


def test_series_have_a_row_for_each_point(views: AnyDatabase, store: DBStore) -> None:
    metrics = {
        "loss": {"10": 0.5, "9": 0.75, "-1": math.nan},
        "eval": {"0": {"f1": 1}, "1": {"f1": 2}},
        "single": {"7": 1},
        "sizes": {"1": 1, "01": 2},
    }
    store.add_step_log(step("train", user_defined_metrics=metrics), "good")
    found = rows(views, "SELECT metric, iteration, value FROM run_metrics WHERE run_id = 'good'")
    assert sorted(row for row in found if row[0] == "loss") == [
        ("loss", -1, None),
        ("loss", 9, 0.75),
        ("loss", 10, 0.5),
    ]
    assert {row[:2] for row in found if row[0] != "loss"} == {
        ("eval", 0),
        ("eval", 1),
        ("single", None),
        ("sizes", None),
    }

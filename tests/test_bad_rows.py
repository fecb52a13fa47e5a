"""One bad row or file is reported, and every command goes on with the others."""

import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest
from click.testing import CliRunner
from conftest import SERVERS, AnyDatabase, Database, SqliteFile, database_for, new_store
from logs import attempted_step, sample_run, step
from magnus.datastore import BranchLog

from magnus_peewee_store import DBStore, cli, runs
from magnus_peewee_store.logs import seconds_of, span_of

BEAT = {"interval": 30, "state": "", "user": "ann", "host": "a", "seen": "2026-01-01 12:00:00", "utc_offset": 0}
DEEP: Any = 1
for _ in range(900):
    DEEP = {"a": DEEP}


def step_with(metric: Any = 1, end_time: str = "2026-01-01 10:00:01") -> Any:
    train = attempted_step("train", "10:00:00", "10:00:01", user_defined_metrics={"size": metric})
    train.attempts[0].end_time = end_time
    return train


# Rows as other software, or a process that goes wrong, may write them: type, key and value.
BAD_ROWS: Dict[str, Any] = {
    "integer-beyond-a-float": ("Step", "train", step_with(10**400).model_dump()),
    "deep-metric": ("Step", "train", step_with(DEEP).model_dump()),
    "attempt-of-the-last-year": ("Step", "train", step_with(1, "9999-12-31 23:59:59.999999").model_dump()),
    "deep-parameter": ("Parameter", "deep", DEEP),
    "heartbeat-in-utc": ("Heartbeat", "b", {**BEAT, "seen": "2026-01-01T12:00:00Z"}),
    "heartbeat-with-a-zone": ("Heartbeat", "b", {**BEAT, "seen": "0001-01-01T00:00:00+05:00"}),
    "heartbeat-with-a-list": ("Heartbeat", "b", {**BEAT, "utc_offset": [1], "user": [1]}),
    "heartbeat-with-a-huge-offset": ("Heartbeat", "b", {**BEAT, "utc_offset": 10**300}),
    "heartbeat-without-end": ("Heartbeat", "b", {**BEAT, "interval": 1e999}),
    "tag-that-is-a-list": ("Tag", "t", [1]),
    "note-without-times": ("Note", "t", {"text": "t", "user": 1, "changed": 5}),
}


@pytest.fixture
def store(sqlite_file: SqliteFile) -> Iterator[DBStore]:
    """Return a store with a good run, and an unfinished run for each bad row. One value is not UTF-8."""
    with new_store(sqlite_file.url) as store:
        store.put_run_log(sample_run("good"))
        for run_id, (attribute_type, key, value) in BAD_ROWS.items():
            store.create_run_log(run_id, status="PROCESSING")
            store.table.upsert(run_id, [(attribute_type, key, json.dumps(value))])
        store.create_run_log("not-utf-8", status="PROCESSING")
        store.set_parameters("not-utf-8", {"x": "latin"})
        sqlite_file.sql("UPDATE db_log SET attribute_value = CAST(X'22E922' AS TEXT) WHERE attribute_key = 'x'")
        yield store


@pytest.fixture
def magnus_db(store: DBStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAGNUS_DB_CONNECTION_STRING", str(store.connection_string.get_secret_value()))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli.db, list(arguments))
        assert isinstance(result.exception, (SystemExit, type(None))), (arguments, result.exception)
        return str(result.output)

    return run


ALL = [*BAD_ROWS, "not-utf-8"]


@pytest.mark.parametrize(
    "options",
    ["--params --metrics", "--json", "--csv", "--sort size", "--where duration<1000d", "--columns duration,size"],
)
def test_runs_lists_all_runs(magnus_db: Callable[..., str], options: str) -> None:
    output = magnus_db("runs", *options.split())
    assert "good" in output and ("heartbeat-with-a-list" in output or "where" in options)


@pytest.mark.parametrize(
    "command", ["show", "show --json", "timeline -o page.html", "timeline -o page.svg", "diff good"]
)
def test_each_run_is_shown(magnus_db: Callable[..., str], command: str) -> None:
    name, *options = command.split()
    for run_id in ALL:
        assert "Error" not in magnus_db(name, run_id, *options)


def test_show_reports_the_bad_row(magnus_db: Callable[..., str]) -> None:
    assert "nested more than 200 deep" in magnus_db("show", "deep-parameter")
    assert "not UTF-8" in magnus_db("show", "not-utf-8")


def test_check_reports_the_bad_rows(magnus_db: Callable[..., str]) -> None:
    output = magnus_db("check")
    assert all(run_id in output for run_id in ("deep-parameter", "deep-metric", "not-utf-8")), output


def test_report_has_a_page_for_each_run(magnus_db: Callable[..., str], tmp_path: Path) -> None:
    magnus_db("report", "-o", "site")
    assert len(list((tmp_path / "site" / "runs").iterdir())) == len(ALL) + 1


def test_export_writes_all_runs(magnus_db: Callable[..., str], tmp_path: Path) -> None:
    magnus_db("export", "--all", "-o", "exported")
    assert {path.stem for path in (tmp_path / "exported").glob("*.json")} == {*ALL, "good"}


def test_copy_copies_all_runs_but_one(magnus_db: Callable[..., str], tmp_path: Path) -> None:
    assert "not-utf-8" in magnus_db("copy", "--to", "sqlite:///copy.db")
    with new_store(f"sqlite:///{tmp_path}/copy.db") as target:
        assert {run.run_id for run in runs.list_runs(target, limit=None)} == {*BAD_ROWS, "good"}


def test_prune_goes_on(magnus_db: Callable[..., str]) -> None:
    assert "good" in magnus_db("prune", "--keep", "0", "--dry-run")


def test_lineage_goes_on(magnus_db: Callable[..., str], store: DBStore) -> None:
    magnus_db("lineage", "abcdef")


def test_dataframes_have_all_runs(store: DBStore) -> None:
    pytest.importorskip("pandas")
    assert {*runs.to_dataframe(store)["run_id"]} == {*ALL, "good"}
    runs.metrics_dataframe(store)


def test_export_goes_on_after_a_file_that_cannot_be_written(
    magnus_db: Callable[..., str], store: DBStore, tmp_path: Path
) -> None:
    store.create_run_log("long" * 100)
    (tmp_path / "exported" / "deep-metric.json").mkdir(parents=True)
    output = magnus_db("export", "--all", "-o", "exported")
    assert "File name too long" in output and "deep-metric: Is a directory" in output
    files = {path.stem for path in (tmp_path / "exported").glob("*.json") if path.is_file()}
    assert files == {*ALL, "good"} - {"deep-metric"}


def test_import_goes_on_after_a_file_that_cannot_be_read(sqlite_file: SqliteFile, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for run_id, time in (("a", "2026-01-01 10:00:00"), ("b", "9999-12-31 23:59:59.999999"), ("z", "")):
        run_log = sample_run(run_id).model_dump()
        for each in run_log["steps"].values():
            for attempt in each["attempts"]:
                attempt.update(start_time=time, end_time=time)
        (folder / f"{run_id}.json").write_text(json.dumps(run_log), encoding="utf-8")
    os.mkfifo(folder / "c.json")
    with new_store(sqlite_file.url) as store:
        outcomes = {Path(each.name).stem: each for each in runs.import_runs(store, runs.find_run_logs(folder))}
        assert {name: each.status for name, each in outcomes.items()} == {
            **dict.fromkeys("abz", "written"),
            "c": "failed",
        }
        assert outcomes["c"].message == "it is not a regular file"


@pytest.mark.parametrize("created_at", ["never", "9999-12-31 23:59:59.999999"])
def test_run_with_a_bad_time_can_be_tagged(sqlite_file: SqliteFile, store: DBStore, created_at: str) -> None:
    sqlite_file.sql("UPDATE db_log SET created_at = ? WHERE run_id = 'good'", created_at)
    runs.tag_run(store, "good", "best")
    assert [*runs.read_run(store, "good").tags] == ["best"]


BAD_TIMES = ["infinity", "-infinity", "0044-03-15 12:00:00 BC", "12345-01-01 00:00:00"]


@pytest.fixture
def postgresql(server_databases: Callable[[str], Database]) -> Iterator[AnyDatabase]:
    yield from database_for("postgresql+psycopg", Path(), server_databases)


@pytest.mark.skipif("postgresql+psycopg" not in SERVERS, reason="needs PostgreSQL")
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_commands_go_on_beside_times_that_python_lacks(
    postgresql: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    url = postgresql.url.replace("+psycopg:", f"+{driver}:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAGNUS_DB_CONNECTION_STRING", url)
    with new_store(url) as store:
        for run_id in ("good", *map(str, range(len(BAD_TIMES)))):
            store.put_run_log(sample_run(run_id))
        for number, time in enumerate(BAD_TIMES):
            postgresql.sql("UPDATE db_log SET created_at = ? WHERE run_id = ?", time, str(number))
        for command in (
            "runs",
            "runs --json",
            "show 0",
            "check",
            "prune --keep 0 --dry-run",
            "copy --to sqlite:///c.db",
        ):
            result = CliRunner().invoke(cli.db, command.split())
            assert isinstance(result.exception, (SystemExit, type(None))), (command, result.exception)
            assert "timestamp" not in result.output
        assert len(runs.search(store)) == 5
        store.add_step_log(step_with(), "2")  # A run with such a row can still be written.


def test_name_with_many_dots_is_read_in_linear_time(store: DBStore, magnus_db: Callable[..., str]) -> None:
    name = "map" + 300_000 * "."  # Quadratic time would exceed the time limit of each test.
    for each in (step(name), step(f"{name}.value.train")):
        store.table.upsert("good", [("Step", each.internal_name, each.model_dump_json())])
    store.table.upsert(
        "good", [("Branch", f"{name}.value", BranchLog(internal_name=f"{name}.value").model_dump_json())]
    )
    run_log = store.get_run_log_by_id("good", full=True)
    assert [*run_log.steps[name].branches[f"{name}.value"].steps] == [f"{name}.value.train"]
    for command in ("show good", "show good --json", "timeline good -o page.html", "export good -o file.json"):
        assert "Error" not in magnus_db(*command.split())


def test_times_of_the_first_and_last_year_do_not_hide_the_others() -> None:
    times = ["0001-01-01 00:00:00", "2026-01-01 10:00:00", "2026-01-01 11:00:00", "9999-12-31 23:59:59"]
    assert seconds_of(span_of(times, 0)) == 3600

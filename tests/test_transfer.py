"""Test export, import, copying, deleting and checking of runs."""

import itertools
import json
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Iterator, List

import peewee
import pytest
from conftest import ORACLES, AnyDatabase, Project, SqliteFile
from logs import attempted_step, sample_run, step
from magnus.datastore import RunLog
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore

from magnus_peewee_store import DBStore, runs
from magnus_peewee_store.db.whole_runs import StoredRow
from magnus_peewee_store.logs import steps_of
from magnus_peewee_store.runs.transfer import Outcome, write_atomically
from magnus_peewee_store.times import utcnow

PIPELINE = {
    "dag": {
        "start_at": "load",
        "steps": {
            "load": {
                "type": "task",
                "command_type": "shell",
                "command": 'export MAGNUS_PRM_files=\'["jan", "feb"]\' MAGNUS_PRM_x=1 MAGNUS_TRACK_loss=NaN',
                "next": "each",
            },
            "each": {
                "type": "map",
                "iterate_on": "files",
                "iterate_as": "file",
                "branch": {
                    "start_at": "work",
                    "steps": {
                        "work": {"type": "stub", "next": "success"},
                        "success": {"type": "success"},
                        "fail": {"type": "fail"},
                    },
                },
                "next": "success",
            },
            "success": {"type": "success"},
            "fail": {"type": "fail"},
        },
    }
}


@pytest.fixture
def local_store(sqlite_file: SqliteFile) -> Iterator[DBStore]:
    """Return a store on an SQLite file."""
    store = DBStore(connection_string=sqlite_file.url)
    yield store
    store.close()


@pytest.fixture
def other_store(tmp_path: Path) -> Iterator[DBStore]:
    """Return a store on another SQLite file, to copy from and to."""
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/other.db")
    yield store
    store.close()


def as_json(run_log: RunLog) -> Any:
    return json.dumps(run_log.model_dump())


def all_rows(store: DBStore) -> List[StoredRow]:
    return sorted(row for rows in store.table.scan(1000) for row in rows)


def import_from(store: DBStore, path: Path) -> List[Outcome]:
    return list(runs.import_runs(store, runs.find_run_logs(path)))


def set_age(database: AnyDatabase, run_id: str, days: float) -> None:
    """Change the times of a run's rows to some days ago."""
    created_at = str(utcnow() - timedelta(days=days))
    database.sql("UPDATE db_log SET created_at = ? WHERE run_id = ?", created_at, run_id)


# Files


def test_export_and_import_keep_the_run_log(store: DBStore, tmp_path: Path) -> None:
    store.put_run_log(sample_run("run", tag="nightly", run_config={"variables": {"a": "\u00e9"}}))
    folder = tmp_path / "deep" / "out"
    assert list(runs.export_runs(store, ["run"], folder)) == [Outcome("run", "written")]
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    read = FileSystemRunLogstore(log_folder=str(folder)).get_run_log_by_id("run", full=True)
    expected = as_json(store.get_run_log_by_id("run", full=True))
    assert as_json(read) == expected
    store.table.delete("run")
    assert import_from(store, folder) == [Outcome(str(folder / "run.json"), "written")]
    assert as_json(store.get_run_log_by_id("run", full=True)) == expected


def test_export_overwrites_an_older_file(local_store: DBStore, tmp_path: Path) -> None:
    for status in ("PROCESSING", "SUCCESS"):
        local_store.put_run_log(RunLog(run_id="run", status=status))
        assert list(runs.export_runs(local_store, ["run"], tmp_path / "out")) == [Outcome("run", "written")]
        assert FileSystemRunLogstore(log_folder=str(tmp_path / "out")).get_run_log_by_id("run").status == status


@pytest.mark.parametrize("run_id", ["../run", "/tmp/run", "..", "a/b", "a\\b"])
def test_run_id_that_cannot_name_a_file_is_not_exported(local_store: DBStore, tmp_path: Path, run_id: str) -> None:
    local_store.create_run_log(run_id)
    local_store.create_run_log("run")
    outcome, other_outcome = runs.export_runs(local_store, [run_id, "run"], tmp_path / "in" / "out")
    if run_id == "..":  # "...json" is a valid file name.
        assert outcome.status == "written"
    else:
        assert outcome == Outcome(run_id, "failed", "its id cannot be the name of a file")
        assert [path.name for path in (tmp_path / "in").rglob("*.json")] == ["run.json"]
    assert other_outcome.status == "written"


def test_export_reports_unreadable_rows(local_store: DBStore, sqlite_file: SqliteFile, tmp_path: Path) -> None:
    local_store.put_run_log(sample_run("headless"))
    local_store.put_run_log(sample_run("unreadable"))
    sqlite_file.sql("UPDATE db_log SET attribute_value = 3 WHERE run_id = 'headless' AND attribute_type = 'RunLog'")
    sqlite_file.sql("UPDATE db_log SET attribute_value = 3 WHERE run_id = 'unreadable' AND attribute_key = 'load'")
    headless, unreadable, gone = runs.export_runs(local_store, ["headless", "unreadable", "gone"], tmp_path / "out")
    assert headless.status == "failed" and headless.message.startswith("RunLog run_log: ")
    assert unreadable.status == "incomplete" and unreadable.message.startswith("Step load: ")
    assert gone == Outcome("gone", "failed", "There is no run 'gone'.")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unreadable.json"]


@pytest.mark.parametrize("oracle", ORACLES)
def test_import_reads_the_folders_of_magnus_stores(local_store: DBStore, project: Project, oracle: str) -> None:
    project.write(pipeline_yaml=PIPELINE, config_yaml={"run_log_store": {"type": oracle}})
    start = utcnow()
    project.execute("run-1")
    folder = project.folder / ".run_log_store"
    expected = ORACLES[oracle](log_folder=str(folder)).get_run_log_by_id("run-1", full=True)
    assert [outcome.status for outcome in import_from(local_store, folder)] == ["written"]
    run = runs.read_run(local_store, "run-1")
    assert run.run_log.status == "SUCCESS" and len(list(steps_of(run.run_log))) == 4
    assert run.run_log.parameters == expected.parameters
    expected.parameters = run.run_log.parameters  # chunked-fs reads them in the order of the file system.
    assert as_json(run.run_log) == as_json(expected)
    assert run.started and start <= run.started.replace(tzinfo=None) <= utcnow()
    assert [outcome.status for outcome in import_from(local_store, folder)] == ["skipped"]


def test_import_of_chunked_run_with_dots_in_branch_names(local_store: DBStore, tmp_path: Path) -> None:
    oracle = ORACLES["chunked-fs"](log_folder=str(tmp_path / "logs"))
    oracle.create_run_log("run")
    oracle.set_parameters("run", {"a.json": 1, "json": 2})  # Its file has no suffix.
    oracle.add_step_log(step("each"), "run")
    branch = oracle.create_branch_log("each.jan.csv")
    oracle.add_branch_log(branch, "run")
    oracle.add_step_log(step("each.jan.csv.work"), "run")
    with pytest.raises(KeyError):  # magnus itself cannot read this run.
        oracle.get_run_log_by_id("run", full=True)
    assert [outcome[1:] for outcome in import_from(local_store, tmp_path / "logs")] == [("written", "")]
    run_log = runs.read_run(local_store, "run").run_log
    assert list(run_log.steps["each"].branches["each.jan.csv"].steps) == ["each.jan.csv.work"]
    assert run_log.parameters == {"a.json": 1, "json": 2}


def test_import_skips_and_reports_broken_files(local_store: DBStore, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    chunked = ORACLES["chunked-fs"](log_folder=str(folder))
    for run_id in ("truncated", "complete"):
        chunked.create_run_log(run_id)
        chunked.add_step_log(step("work"), run_id)
    [step_file] = (folder / "truncated").glob("StepLog-*")
    step_file.write_text(step_file.read_text()[:-10])
    FileSystemRunLogstore(log_folder=str(folder)).put_run_log(sample_run("file"))
    valid_text = (folder / "file.json").read_text()
    broken = {
        "empty": "",
        "half": valid_text[:-100],
        "list": "[]",
        "no-run": "{}",
        "nameless": valid_text.replace('"file"', '""'),
    }
    for name, text in broken.items():
        (folder / f"{name}.json").write_text(text)
    (folder / "latin.json").write_bytes(b'{"run_id": "\xe9"}')
    (folder / "folder.json").mkdir()
    outcomes = {Path(outcome.name).name: outcome for outcome in import_from(local_store, folder)}
    assert {name for name, outcome in outcomes.items() if outcome.status == "written"} == {"file.json", "complete"}
    failed = {name for name, outcome in outcomes.items() if outcome.status == "failed"}
    assert failed == {*(f"{name}.json" for name in broken), "latin.json", "folder.json", "truncated"}
    assert {run_id for run_id, _ in local_store.table.runs(["RunLog"])} == {"file", "complete"}


def test_import_of_a_single_run(local_store: DBStore, tmp_path: Path) -> None:
    ORACLES["chunked-fs"](log_folder=str(tmp_path)).create_run_log("chunked")
    ORACLES["file-system"](log_folder=str(tmp_path)).create_run_log("file")
    for path in (tmp_path / "chunked", tmp_path / "file.json"):
        assert [outcome.status for outcome in import_from(local_store, path)] == ["written"]
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=path.name):
            runs.find_run_logs(path)


def test_imported_run_starts_at_its_first_attempt(local_store: DBStore, tmp_path: Path) -> None:
    for run_id, hour in (("newer", "11"), ("older", "09")):
        steps = {"work": attempted_step("work", f"{hour}:00:00", f"{hour}:00:01")}
        (tmp_path / f"{run_id}.json").write_text(json.dumps(RunLog(run_id=run_id, steps=steps).model_dump()))
    (tmp_path / "none.json").write_text(json.dumps({"run_id": "none", "steps": {"a": step("a").model_dump()}}))
    import_from(local_store, tmp_path)
    listed = runs.list_runs(local_store)
    assert [run.run_id for run in listed] == ["none", "newer", "older"]
    assert listed[2].started == datetime(2024, 2, 3, 9).astimezone()
    assert [row[1] for row in local_store.table.read("older")] == ["run_log", "work"]


def test_import_masks_secrets(local_store: DBStore, sqlite_file: SqliteFile, tmp_path: Path) -> None:
    run_config = {
        "secrets_handler": {"service_name": "dotenv", "secrets": {"token": "krakenbait"}},
        "run_log_store": {"service_name": "db", "connection_string": "postgresql://scott:krakenbait@db/runs"},
    }
    (tmp_path / "run.json").write_text(json.dumps(RunLog(run_id="run", run_config=run_config).model_dump()))
    assert import_from(local_store, tmp_path / "run.json")[0].status == "written"
    local_store.close()
    assert b"krakenbait" not in sqlite_file.path.read_bytes()
    run_config = local_store.get_run_config("run")
    assert run_config["run_log_store"]["connection_string"] == "postgresql://scott:***@db/runs"


# From database to database


def test_copy_keeps_rows_and_skips_existing_runs(store: DBStore, other_store: DBStore) -> None:
    for number in range(3):
        other_store.put_run_log(sample_run(f"run {number}"))
    [row] = other_store.table.read_runs(["run 1"], ("RunLog",))
    value = RunLog(run_id="run 1", tag="of the target").model_dump_json()
    store.table.insert_run([row._replace(attribute_value=value, created_at=row.created_at.replace(year=2020))])
    run_ids = [f"run {number}" for number in range(3)]
    outcomes = list(runs.copy_runs(other_store, store, run_ids))
    assert [outcome.status for outcome in outcomes] == ["written", "skipped", "written"]
    assert [row for row in all_rows(store) if row.run_id != "run 1"] == [
        row for row in all_rows(other_store) if row.run_id != "run 1"
    ]
    assert [row.run_id for row in all_rows(store)].count("run 1") == 1
    assert store.get_run_log_by_id("run 1").tag == "of the target"


def test_copy_reports_unfinished_runs(tmp_path: Path) -> None:
    source, target = (DBStore(connection_string=f"sqlite:///{tmp_path}/{name}.db") for name in ("source", "target"))
    for run_id, status in (("running", "PROCESSING"), ("ended", "SUCCESS")):
        source.create_run_log(run_id, status=status)
    outcomes = list(runs.copy_runs(source, target, ["running", "ended"]))
    assert [outcome.status for outcome in outcomes] == ["written", "written"]
    assert ["has not ended" in outcome.message for outcome in outcomes] == [True, False]
    source.close()
    target.close()


def test_copy_to_sqlite_and_back_changes_nothing(store: DBStore, other_store: DBStore) -> None:
    store.put_run_log(sample_run("run"))
    before = all_rows(store)
    assert [outcome.status for outcome in runs.copy_runs(store, other_store, ["run"])] == ["written"]
    store.table.delete("run")
    assert [outcome.status for outcome in runs.copy_runs(other_store, store, ["run"])] == ["written"]
    assert all_rows(store) == before


def test_copy_without_unique_index_adds_no_duplicates(other_store: DBStore, sqlite_file: SqliteFile) -> None:
    columns = "run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT, created_at DATETIME"
    sqlite_file.sql(f"CREATE TABLE db_log (pk INTEGER PRIMARY KEY, {columns})")
    sqlite_file.sql("INSERT INTO db_log VALUES (1, 'run', 'x', 'Parameter', '1', '2020-01-01 00:00:00')")
    other_store.create_run_log("run")
    other_store.set_parameters("run", {"x": 2})
    target = DBStore(connection_string=sqlite_file.url)
    assert [outcome.status for outcome in runs.copy_runs(other_store, target, ["run"])] == ["skipped"]
    assert sqlite_file.sql("SELECT attribute_value FROM db_log") == [("1",)]
    target.close()


def test_copy_and_export_mask_stored_secrets(local_store: DBStore, sqlite_file: SqliteFile, tmp_path: Path) -> None:
    run_log_store = {"service_name": "db", "connection_string": "postgresql://scott:tiger@db/logs"}
    secrets = {"service_name": "dotenv", "secrets": {"password": "hunter2"}}
    local_store.create_run_log("run", status="SUCCESS")
    header = RunLog(
        run_id="run", run_config={"secrets_handler": secrets, "run_log_store": run_log_store, "tag": "kept"}
    )
    sqlite_file.sql("UPDATE db_log SET attribute_value = ?", json.dumps(header.model_dump()))
    target = DBStore(connection_string=f"sqlite:///{tmp_path}/target.db")
    assert [outcome.status for outcome in runs.copy_runs(local_store, target, ["run"])] == ["written"]
    assert [outcome.status for outcome in runs.export_runs(local_store, ["run"], tmp_path / "out")] == ["written"]
    assert target.get_run_config("run")["tag"] == "kept"
    outputs = [
        target.get_run_config("run"),
        runs.read_run(local_store, "run").run_log,
        (tmp_path / "out/run.json").read_text(),
    ]
    assert not [text for text in map(str, outputs) if "tiger" in text or "hunter2" in text]
    target.close()


def test_export_does_not_match_prefixes(local_store: DBStore, tmp_path: Path) -> None:
    local_store.create_run_log("abcd")
    [outcome] = runs.export_runs(local_store, ["abc"], tmp_path / "out")
    assert outcome == Outcome("abc", "failed", "There is no run 'abc'.") and not list((tmp_path / "out").iterdir())


def test_copy_takes_the_newest_of_duplicate_rows(tmp_path: Path) -> None:
    source = SqliteFile(tmp_path)
    columns = "run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT, created_at DATETIME"
    source.sql(f"CREATE TABLE db_log (pk INTEGER PRIMARY KEY, {columns})")
    values = [("RunLog", "run_log", RunLog(run_id="run").model_dump()), ("StepLog", "a", step("a").model_dump())]
    values += [("StepLog", "a", step("a", status="SUCCESS").model_dump()), ("Parameter", "x", 1)]
    for second, (attribute_type, key, value) in enumerate(values):
        row = ("run", key, attribute_type, json.dumps(value), f"2020-01-01 00:00:{second:02}")
        source.sql("INSERT INTO db_log VALUES (NULL, ?, ?, ?, ?, ?)", *row)
    a, b = DBStore(connection_string=source.url), DBStore(connection_string=f"sqlite:///{tmp_path}/target.db")
    assert [outcome.status for outcome in runs.copy_runs(a, b, ["run"])] == ["written"]
    assert [row[:2] for row in b.table.read("run")] == [("RunLog", "run_log"), ("StepLog", "a"), ("Parameter", "x")]
    assert b.get_step_log("a", "run").status == "SUCCESS"
    a.close()
    b.close()


def test_copy_reports_runs_that_do_not_fit(store: DBStore, other_store: DBStore) -> None:
    run_ids = ["x" * 300, "run"]
    for run_id in run_ids:
        other_store.create_run_log(run_id)
        other_store.add_step_log(step("a"), run_id)
    long, short = runs.copy_runs(other_store, store, run_ids)
    assert short.status == "written" and {row.run_id for row in all_rows(store)} >= {"run"}
    if isinstance(store.database, peewee.MySQLDatabase):
        assert long.status == "failed" and long.message
        assert {row.run_id for row in all_rows(store)} == {"run"}
    else:
        assert long.status == "written"


# Deleting


def test_prunable_runs_are_old_and_not_the_newest(store: DBStore, database: AnyDatabase) -> None:
    for number in range(10):
        store.create_run_log(f"run {number}", status="SUCCESS")
        set_age(database, f"run {number}", days=10 - number)
    older_than, run_ids = timedelta(days=5.5), [f"run {number}" for number in range(10)]
    assert runs.prunable(store, older_than=older_than) == (run_ids[:5], [], {})
    assert runs.prunable(store, keep=3) == (run_ids[:7], [], {})
    assert runs.prunable(store, older_than=older_than, keep=3).run_ids == run_ids[:5]
    assert runs.prunable(store, older_than=older_than, keep=8).run_ids == run_ids[:2]
    assert runs.prunable(store, keep=0).run_ids == run_ids
    assert runs.prunable(store, keep=20).run_ids == []


def test_prunable_reads_steps_only_for_conditions(local_store: DBStore) -> None:
    local_store.put_run_log(sample_run("run"))
    reads: List[bool] = []
    local_store.database.query_hooks.append(lambda event: reads.append("Step" in event.params))
    assert runs.prunable(local_store, keep=0, keep_tags=["released"]).run_ids == ["run"]
    assert not any(reads)
    assert runs.prunable(local_store, keep=0, where=["duration>=0s"]).run_ids == ["run"]
    assert any(reads)


def test_recently_written_unfinished_run_is_not_prunable(local_store: DBStore, sqlite_file: SqliteFile) -> None:
    for run_id, status in (
        ("ended", "FAIL"),
        ("running", "PROCESSING"),
        ("dead", "PROCESSING"),
        ("unreadable", "SUCCESS"),
    ):
        local_store.create_run_log(run_id, status=status)
        set_age(sqlite_file, run_id, days=100)
    sqlite_file.sql("UPDATE db_log SET attribute_value = '{' WHERE run_id = 'unreadable'")
    local_store.add_step_log(step("a"), "running")
    local_store.add_step_log(step("a"), "unreadable")
    found = runs.prunable(local_store, older_than=timedelta(days=90))
    assert (sorted(found.run_ids), sorted(found.running)) == (["dead", "ended"], ["running", "unreadable"])
    sqlite_file.sql("UPDATE db_log SET created_at = ? WHERE attribute_key = 'a'", str(utcnow() - timedelta(days=2)))
    assert len(runs.prunable(local_store, older_than=timedelta(days=90)).running) == 2
    assert runs.prunable(local_store, keep=0).running == []
    sqlite_file.sql("UPDATE db_log SET created_at = ? WHERE attribute_key = 'a'", str(utcnow() - timedelta(hours=3)))
    assert "running" in runs.prunable(local_store, older_than=timedelta(hours=2)).running


def test_delete_does_not_block_pipelines(store: DBStore, database: AnyDatabase) -> None:
    """Other processes can write between two deletions. Each run is deleted in one transaction."""
    old_ids = [f"old {number}" for number in range(30)]
    for run_id in old_ids:
        store.put_run_log(sample_run(run_id))
    has_started, should_stop = threading.Event(), threading.Event()
    written: List[int] = []

    def pipeline() -> None:
        writer = DBStore(connection_string=database.url, retry_timeout=60)
        writer.create_run_log("new")
        for number in itertools.count():
            writer.add_step_log(step(f"s{number}"), "new")
            written.append(number)
            has_started.set()
            if should_stop.is_set():
                break
        writer.close()

    thread = threading.Thread(target=pipeline)
    thread.start()
    try:
        assert has_started.wait(60)
        reader, before = DBStore(connection_string=database.url), len(written)
        for deleted, rows in enumerate(runs.delete_runs(store, old_ids), start=1):
            assert rows == 11
            remaining = {row.run_id for row in reader.table.read_runs(old_ids)}
            assert remaining == set(old_ids[deleted:])
        assert len(written) > before
        reader.close()
    finally:
        should_stop.set()
        thread.join()
    assert len(store.get_run_log_by_id("new", full=True).steps) == len(written)


# Checking


def test_check_reports_all_problems(store: DBStore, database: AnyDatabase) -> None:
    for run_id in ("good", "unreadable", "headless"):
        store.put_run_log(sample_run(run_id))
    counted: List[int] = []
    found = runs.check(store, counted.append)
    assert found.is_healthy and found.runs == 3 and sum(counted) == sum(found.rows.values()) == 33
    assert found.rows == {"RunLog": 3, "Parameter": 6, "Step": 18, "Branch": 6}
    assert found.size > 1000
    assert re.search(r"^(SQLite|PostgreSQL) \d|MariaDB", found.product)
    database.sql("UPDATE db_log SET attribute_value = '{' WHERE run_id = 'unreadable' AND attribute_key = 'load'")
    database.sql("UPDATE db_log SET attribute_type = 'Metric' WHERE run_id = 'unreadable' AND attribute_key = 'rows'")
    database.sql("DELETE FROM db_log WHERE run_id = 'headless' AND attribute_type = 'RunLog'")
    found = runs.check(store)
    assert not found.is_healthy and found.without_own_row == ["headless"] and found.runs == 3
    unreadable = {each[:3] for each in found.unreadable}
    assert unreadable == {("unreadable", "Step", "load"), ("unreadable", "Metric", "rows")}


def test_check_finds_duplicates_and_a_missing_index(local_store: DBStore, sqlite_file: SqliteFile) -> None:
    local_store.put_run_log(sample_run("run"))
    for (name,) in sqlite_file.sql("SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%UNIQUE%'"):
        sqlite_file.sql(f"DROP INDEX {name}")
    columns = "run_id, attribute_type, attribute_key, attribute_value, created_at"
    sqlite_file.sql(f"INSERT INTO db_log ({columns}) SELECT {columns} FROM db_log WHERE attribute_key = 'load'")
    found = runs.check(local_store)
    assert (found.duplicates, found.is_healthy) == ({"run": 1}, False)
    assert found.missing == ["the unique index over run_id, attribute_type, attribute_key"]


def test_import_then_export_restores_the_folder(local_store: DBStore, tmp_path: Path) -> None:
    source = FileSystemRunLogstore(log_folder=str(tmp_path / "in"))
    for number in range(5):
        source.put_run_log(sample_run(f"run-{number}"))
    assert all(outcome.status == "written" for outcome in import_from(local_store, tmp_path / "in"))
    shutil.rmtree(str(tmp_path / "in"))
    run_ids = [f"run-{number}" for number in range(5)]
    assert all(outcome.status == "written" for outcome in runs.export_runs(local_store, run_ids, tmp_path / "in"))
    for run_id in run_ids:
        assert as_json(source.get_run_log_by_id(run_id)) == as_json(sample_run(run_id))


def test_files_that_threads_write_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for file in range(25):
            write_atomically(tmp_path / f"{number} {file}", f"{number}" * 10_000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert {path.name[0] * 10_000 for path in tmp_path.iterdir()} == {path.read_text() for path in tmp_path.iterdir()}
    assert all(path.read_text() == path.name[0] * 10_000 for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 100 and (tmp_path / "0 0").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

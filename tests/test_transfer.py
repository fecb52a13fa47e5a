"""Runs into files and back, from database to database, and out of it."""

import itertools
import json
import re
import shutil
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Iterator, List

import peewee
import pytest
from conftest import ORACLES, AnyDatabase, Project, SqliteFile
from logs import attempted_step, sample_run, step
from magnus.datastore import RunLog
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore

from magnus_peewee_store import DBStore, runs, transfer, upkeep
from magnus_peewee_store.db import StoredRow, utcnow
from magnus_peewee_store.transfer import Outcome

PIPELINE = {
    "dag": {
        "start_at": "load",
        "steps": {
            "load": {
                "type": "task",
                "command_type": "shell",
                "command": 'export MAGNUS_PRM_files=\'["jan", "feb"]\' MAGNUS_PRM_x=1 MAGNUS_TRACK_told=NaN',
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
def local(sqlite_file: SqliteFile) -> Iterator[DBStore]:
    """A store on an SQLite file."""
    store = DBStore(connection_string=sqlite_file.url)
    yield store
    store.close()


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[DBStore]:
    """A store on an SQLite file, to copy from and to."""
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/laptop.db")
    yield store
    store.close()


def as_json(run_log: RunLog) -> Any:
    return json.dumps(run_log.model_dump())


def rows_of(store: DBStore) -> List[StoredRow]:
    return sorted(row for rows in store.table.scan(1000) for row in rows)


def import_from(store: DBStore, path: Path) -> List[transfer.Outcome]:
    return list(transfer.import_runs(store, transfer.find_run_logs(path)))


def age(database: AnyDatabase, run_id: str, days: float) -> None:
    """Have a run been written so many days ago."""
    then = str(utcnow() - timedelta(days=days))
    database.sql("UPDATE db_log SET created_at = ? WHERE run_id = ?", then, run_id)


# Files


def test_an_export_is_what_the_file_system_store_reads_and_is_imported_as_it_was(
    store: DBStore, tmp_path: Path
) -> None:
    store.put_run_log(sample_run("run", tag="nightly", run_config={"variables": {"a": "\u00e9"}}))
    folder = tmp_path / "deep" / "out"
    assert list(transfer.export_runs(store, ["run"], folder)) == [Outcome("run", True)]
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    read = FileSystemRunLogstore(log_folder=str(folder)).get_run_log_by_id("run", full=True)
    expected = as_json(store.get_run_log_by_id("run", full=True))
    assert as_json(read) == expected
    store.table.delete("run")
    assert import_from(store, folder) == [Outcome(str(folder / "run.json"), True)]
    assert as_json(store.get_run_log_by_id("run", full=True)) == expected


def test_an_export_is_written_anew_as_the_run_goes_on(local: DBStore, tmp_path: Path) -> None:
    for status in ("PROCESSING", "SUCCESS"):
        local.put_run_log(RunLog(run_id="run", status=status))
        assert list(transfer.export_runs(local, ["run"], tmp_path / "out")) == [Outcome("run", True)]
        assert FileSystemRunLogstore(log_folder=str(tmp_path / "out")).get_run_log_by_id("run").status == status


@pytest.mark.parametrize("run_id", ["../run", "/tmp/run", "..", "a/b", "a\\b", "a\0b"])
def test_a_run_whose_id_cannot_be_a_file_is_not_exported(local: DBStore, tmp_path: Path, run_id: str) -> None:
    local.create_run_log(run_id)
    local.create_run_log("run")
    wrong, right = transfer.export_runs(local, [run_id, "run"], tmp_path / "in" / "out")
    if run_id == "..":  # ...json is one
        assert wrong.done
    else:
        assert wrong == Outcome(run_id, False, "its id cannot be the name of a file")
        assert [path.name for path in (tmp_path / "in").rglob("*.json")] == ["run.json"]
    assert right.done


def test_what_of_a_run_cannot_be_exported_is_named(local: DBStore, sqlite_file: SqliteFile, tmp_path: Path) -> None:
    local.put_run_log(sample_run("headless"))
    local.put_run_log(sample_run("spoilt"))
    sqlite_file.sql("UPDATE db_log SET attribute_value = 3 WHERE run_id = 'headless' AND attribute_type = 'RunLog'")
    sqlite_file.sql("UPDATE db_log SET attribute_value = 3 WHERE run_id = 'spoilt' AND attribute_key = 'load'")
    headless, spoilt, gone = transfer.export_runs(local, ["headless", "spoilt", "gone"], tmp_path / "out")
    assert not headless.done and headless.problem.startswith("RunLog run_log: ")
    assert spoilt.done and spoilt.problem.startswith("Step load: ")
    assert gone == Outcome("gone", False, "There is no run 'gone'.")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["spoilt.json"]


@pytest.mark.parametrize("oracle", ORACLES)
def test_folders_that_magnus_wrote_are_imported_as_magnus_reads_them(
    local: DBStore, project: Project, oracle: str
) -> None:
    project.write(pipeline_yaml=PIPELINE, config_yaml={"run_log_store": {"type": oracle}})
    start = utcnow()
    project.execute("run-1")
    folder = project.folder / ".run_log_store"
    expected = ORACLES[oracle](log_folder=str(folder)).get_run_log_by_id("run-1", full=True)
    assert [outcome.done for outcome in import_from(local, folder)] == [True]
    run = runs.read_run(local, "run-1")
    assert run.run_log.status == "SUCCESS" and len(list(runs.steps_of(run.run_log))) == 4
    assert run.run_log.parameters == expected.parameters
    expected.parameters = run.run_log.parameters  # chunked-fs has them in the order of the file system
    assert as_json(run.run_log) == as_json(expected)
    assert run.started and start <= run.started.replace(tzinfo=None) <= utcnow()
    assert [outcome[1:3] for outcome in import_from(local, folder)] == [(False, "")]


def test_a_chunked_run_whose_branches_have_dots_is_imported_though_magnus_cannot_read_it(
    local: DBStore, tmp_path: Path
) -> None:
    oracle = ORACLES["chunked-fs"](log_folder=str(tmp_path / "logs"))
    oracle.create_run_log("run")
    oracle.set_parameters("run", {"a.json": 1, "json": 2})  # whose file has no ending
    oracle.add_step_log(step("each"), "run")
    branch = oracle.create_branch_log("each.jan.csv")
    oracle.add_branch_log(branch, "run")
    oracle.add_step_log(step("each.jan.csv.work"), "run")
    with pytest.raises(KeyError):
        oracle.get_run_log_by_id("run", full=True)
    assert [outcome[1:3] for outcome in import_from(local, tmp_path / "logs")] == [(True, "")]
    run_log = runs.read_run(local, "run").run_log
    assert list(run_log.steps["each"].branches["each.jan.csv"].steps) == ["each.jan.csv.work"]
    assert run_log.parameters == {"a.json": 1, "json": 2}


def test_a_broken_file_is_named_and_the_rest_goes_on(local: DBStore, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    chunked = ORACLES["chunked-fs"](log_folder=str(folder))
    for run_id in ("torn", "whole"):
        chunked.create_run_log(run_id)
        chunked.add_step_log(step("work"), run_id)
    [torn] = (folder / "torn").glob("StepLog-*")
    torn.write_text(torn.read_text()[:-10])
    FileSystemRunLogstore(log_folder=str(folder)).put_run_log(sample_run("file"))
    whole = (folder / "file.json").read_text()
    broken = {
        "empty": "",
        "half": whole[:-100],
        "list": "[]",
        "no-run": "{}",
        "nameless": whole.replace('"file"', '""'),
    }
    for name, text in broken.items():
        (folder / f"{name}.json").write_text(text)
    (folder / "latin.json").write_bytes(b'{"run_id": "\xe9"}')
    (folder / "folder.json").mkdir()
    outcomes = {Path(outcome.name).name: outcome for outcome in import_from(local, folder)}
    assert {name for name, outcome in outcomes.items() if outcome.done} == {"file.json", "whole"}
    named = {name for name, outcome in outcomes.items() if outcome.problem}
    assert named == {*(f"{name}.json" for name in broken), "latin.json", "folder.json", "torn"}
    assert {run_id for run_id, _ in local.table.runs(["RunLog"])} == {"file", "whole"}


def test_one_file_and_the_folder_of_one_chunked_run_are_imported(local: DBStore, tmp_path: Path) -> None:
    ORACLES["chunked-fs"](log_folder=str(tmp_path)).create_run_log("chunked")
    ORACLES["file-system"](log_folder=str(tmp_path)).create_run_log("file")
    for path in (tmp_path / "chunked", tmp_path / "file.json"):
        assert [outcome.done for outcome in import_from(local, path)] == [True]
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=path.name):
            transfer.find_run_logs(path)


def test_imported_runs_are_as_old_as_their_first_attempt(local: DBStore, tmp_path: Path) -> None:
    for run_id, hour in (("newer", "11"), ("older", "09")):
        steps = {"work": attempted_step("work", f"{hour}:00:00", f"{hour}:00:01")}
        (tmp_path / f"{run_id}.json").write_text(json.dumps(RunLog(run_id=run_id, steps=steps).model_dump()))
    (tmp_path / "none.json").write_text(json.dumps({"run_id": "none", "steps": {"a": step("a").model_dump()}}))
    import_from(local, tmp_path)
    listed = runs.list_runs(local)
    assert [run["run_id"] for run in listed] == ["none", "newer", "older"]
    assert listed[2]["started"] == datetime(2024, 2, 3, 9).astimezone()
    assert [row[1] for row in local.table.read("older")] == ["run_log", "work"]


def test_no_secret_comes_in_with_a_file(local: DBStore, sqlite_file: SqliteFile, tmp_path: Path) -> None:
    run_config = {
        "secrets_handler": {"service_name": "dotenv", "secrets": {"token": "krakenbait"}},
        "run_log_store": {"service_name": "db", "connection_string": "postgresql://scott:krakenbait@db/runs"},
    }
    (tmp_path / "run.json").write_text(json.dumps(RunLog(run_id="run", run_config=run_config).model_dump()))
    assert import_from(local, tmp_path / "run.json")[0].done
    local.close()
    assert b"krakenbait" not in sqlite_file.path.read_bytes()
    kept = local.get_run_config("run")
    assert kept["run_log_store"]["connection_string"] == "postgresql://scott:***@db/runs"


# From database to database


def test_rows_are_copied_as_they_stand_and_a_run_that_is_there_is_left(store: DBStore, laptop: DBStore) -> None:
    for number in range(3):
        laptop.put_run_log(sample_run(f"run {number}"))
    store.create_run_log("run 1", tag="of the target's own")
    run_ids = [f"run {number}" for number in range(3)]
    outcomes = list(transfer.copy_runs(laptop, store, run_ids))
    assert [outcome[1:3] for outcome in outcomes] == [(True, ""), (False, ""), (True, "")]
    assert [row for row in rows_of(store) if row.run_id != "run 1"] == [
        row for row in rows_of(laptop) if row.run_id != "run 1"
    ]
    assert [row.run_id for row in rows_of(store)].count("run 1") == 1
    assert store.get_run_log_by_id("run 1").tag == "of the target's own"


def test_of_a_run_that_has_not_ended_it_is_told_that_it_is_copied_as_it_stands(tmp_path: Path) -> None:
    source, target = (DBStore(connection_string=f"sqlite:///{tmp_path}/{name}.db") for name in ("source", "target"))
    for run_id, status in (("running", "PROCESSING"), ("ended", "SUCCESS")):
        source.create_run_log(run_id, status=status)
    outcomes = list(transfer.copy_runs(source, target, ["running", "ended"]))
    assert [outcome.done for outcome in outcomes] == [True, True]
    assert ["has not ended" in outcome.note for outcome in outcomes] == [True, False]
    source.close()
    target.close()


def test_a_run_goes_to_sqlite_and_back(store: DBStore, laptop: DBStore) -> None:
    store.put_run_log(sample_run("run"))
    before = rows_of(store)
    assert [outcome.done for outcome in transfer.copy_runs(store, laptop, ["run"])] == [True]
    store.table.delete("run")
    assert [outcome.done for outcome in transfer.copy_runs(laptop, store, ["run"])] == [True]
    assert rows_of(store) == before


def test_no_row_is_doubled_in_a_table_without_the_unique_index(laptop: DBStore, sqlite_file: SqliteFile) -> None:
    columns = "run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT, created_at DATETIME"
    sqlite_file.sql(f"CREATE TABLE db_log (pk INTEGER PRIMARY KEY, {columns})")
    sqlite_file.sql("INSERT INTO db_log VALUES (1, 'run', 'x', 'Parameter', '1', '2020-01-01 00:00:00')")
    laptop.create_run_log("run")
    laptop.set_parameters("run", {"x": 2})
    target = DBStore(connection_string=sqlite_file.url)
    assert [outcome.done for outcome in transfer.copy_runs(laptop, target, ["run"])] == [False]
    assert sqlite_file.sql("SELECT attribute_value FROM db_log") == [("1",)]
    target.close()


def test_what_others_kept_of_secrets_goes_nowhere(local: DBStore, sqlite_file: SqliteFile, tmp_path: Path) -> None:
    kept_in = {"service_name": "db", "connection_string": "postgresql://scott:tiger@db/logs"}
    secrets = {"service_name": "dotenv", "secrets": {"password": "hunter2"}}
    local.create_run_log("run", status="SUCCESS")
    header = RunLog(run_id="run", run_config={"secrets_handler": secrets, "run_log_store": kept_in, "tag": "kept"})
    sqlite_file.sql("UPDATE db_log SET attribute_value = ?", json.dumps(header.model_dump()))
    target = DBStore(connection_string=f"sqlite:///{tmp_path}/target.db")
    assert [outcome.done for outcome in transfer.copy_runs(local, target, ["run"])] == [True]
    assert [outcome.done for outcome in transfer.export_runs(local, ["run"], tmp_path / "out")] == [True]
    assert target.get_run_config("run")["tag"] == "kept"
    told = [target.get_run_config("run"), runs.read_run(local, "run").run_log, (tmp_path / "out/run.json").read_text()]
    assert not [text for text in map(str, told) if "tiger" in text or "hunter2" in text]
    target.close()


def test_a_run_that_is_gone_is_not_exported_as_another_whose_id_begins_so(local: DBStore, tmp_path: Path) -> None:
    local.create_run_log("abcd")
    [outcome] = transfer.export_runs(local, ["abc"], tmp_path / "out")
    assert outcome == Outcome("abc", False, "There is no run 'abc'.") and not list((tmp_path / "out").iterdir())


def test_of_rows_that_others_wrote_twice_the_newest_is_copied(tmp_path: Path) -> None:
    source = SqliteFile(tmp_path)
    columns = "run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT, created_at DATETIME"
    source.sql(f"CREATE TABLE db_log (pk INTEGER PRIMARY KEY, {columns})")
    values = [("RunLog", "run_log", RunLog(run_id="run").model_dump()), ("StepLog", "a", step("a").model_dump())]
    values += [("StepLog", "a", step("a", status="SUCCESS").model_dump()), ("Parameter", "x", 1)]
    for second, (kind, key, value) in enumerate(values):
        row = ("run", key, kind, json.dumps(value), f"2020-01-01 00:00:{second:02}")
        source.sql("INSERT INTO db_log VALUES (NULL, ?, ?, ?, ?, ?)", *row)
    a, b = DBStore(connection_string=source.url), DBStore(connection_string=f"sqlite:///{tmp_path}/target.db")
    assert [outcome.done for outcome in transfer.copy_runs(a, b, ["run"])] == [True]
    assert [row[:2] for row in b.table.read("run")] == [("RunLog", "run_log"), ("StepLog", "a"), ("Parameter", "x")]
    assert b.get_step_log("a", "run").status == "SUCCESS"
    a.close()
    b.close()


def test_a_run_that_the_target_cannot_hold_is_named_and_the_rest_goes_on(store: DBStore, laptop: DBStore) -> None:
    run_ids = ["x" * 300, "run"]
    for run_id in run_ids:
        laptop.create_run_log(run_id)
        laptop.add_step_log(step("a"), run_id)
    long, short = transfer.copy_runs(laptop, store, run_ids)
    assert short.done and {row.run_id for row in rows_of(store)} >= {"run"}
    if isinstance(store.table.database, peewee.MySQLDatabase):
        assert not long.done and long.problem
        assert {row.run_id for row in rows_of(store)} == {"run"}
    else:
        assert long.done


# Out of a database


def test_only_runs_that_are_old_and_not_among_the_newest_may_go(store: DBStore, database: AnyDatabase) -> None:
    for number in range(10):
        store.create_run_log(f"run {number}", status="SUCCESS")
        age(database, f"run {number}", days=10 - number)
    older, names = timedelta(days=5.5), [f"run {number}" for number in range(10)]
    assert upkeep.prunable(store, older_than=older) == (names[:5], [])
    assert upkeep.prunable(store, keep=3) == (names[:7], [])
    assert upkeep.prunable(store, older_than=older, keep=3).run_ids == names[:5]
    assert upkeep.prunable(store, older_than=older, keep=8).run_ids == names[:2]
    assert upkeep.prunable(store, keep=0).run_ids == names
    assert upkeep.prunable(store, keep=20).run_ids == []


def test_a_run_that_may_be_running_still_is_left_alone(local: DBStore, sqlite_file: SqliteFile) -> None:
    for run_id, status in (("ended", "FAIL"), ("running", "PROCESSING"), ("dead", "PROCESSING"), ("spoilt", "SUCCESS")):
        local.create_run_log(run_id, status=status)
        age(sqlite_file, run_id, days=100)
    sqlite_file.sql("UPDATE db_log SET attribute_value = '{' WHERE run_id = 'spoilt'")
    local.add_step_log(step("a"), "running")
    local.add_step_log(step("a"), "spoilt")
    found = upkeep.prunable(local, older_than=timedelta(days=90))
    assert (sorted(found.run_ids), sorted(found.running)) == (["dead", "ended"], ["running", "spoilt"])
    sqlite_file.sql("UPDATE db_log SET created_at = ? WHERE attribute_key = 'a'", str(utcnow() - timedelta(days=2)))
    assert len(upkeep.prunable(local, older_than=timedelta(days=90)).running) == 2
    assert upkeep.prunable(local, keep=0).running == []
    sqlite_file.sql("UPDATE db_log SET created_at = ? WHERE attribute_key = 'a'", str(utcnow() - timedelta(hours=3)))
    assert "running" in upkeep.prunable(local, older_than=timedelta(hours=2)).running


def test_pipelines_go_on_while_runs_are_deleted(store: DBStore, database: AnyDatabase) -> None:
    """A run is deleted whole, and in between others write."""
    old = [f"old {number}" for number in range(30)]
    for run_id in old:
        store.put_run_log(sample_run(run_id))
    started, done = threading.Event(), threading.Event()
    written: List[int] = []

    def pipeline() -> None:
        writer = DBStore(connection_string=database.url, retry_timeout=60)
        writer.create_run_log("new")
        for number in itertools.count():
            writer.add_step_log(step(f"s{number}"), "new")
            written.append(number)
            started.set()
            if done.is_set():
                break
        writer.close()

    thread = threading.Thread(target=pipeline)
    thread.start()
    try:
        assert started.wait(60)
        reader, before = DBStore(connection_string=database.url), len(written)
        for deleted, rows in enumerate(upkeep.delete_runs(store, old), start=1):
            assert rows == 11
            left = {row.run_id for row in reader.table.read_runs(old)}
            assert left == set(old[deleted:])
        assert len(written) > before
        reader.close()
    finally:
        done.set()
        thread.join()
    assert len(store.get_run_log_by_id("new", full=True).steps) == len(written)


# Whether all is well


def test_a_check_names_whatever_is_wrong(store: DBStore, database: AnyDatabase) -> None:
    for run_id in ("good", "spoilt", "headless"):
        store.put_run_log(sample_run(run_id))
    counted: List[int] = []
    found = upkeep.check(store, counted.append)
    assert found["well"] and found["runs"] == 3 and sum(counted) == sum(found["rows"].values()) == 33
    assert found["rows"] == {"RunLog": 3, "Parameter": 6, "Step": 18, "Branch": 6}
    assert found["size"] > 1000
    assert re.search(r"^(SQLite|PostgreSQL) \d|MariaDB", found["product"])
    database.sql("UPDATE db_log SET attribute_value = '{' WHERE run_id = 'spoilt' AND attribute_key = 'load'")
    database.sql("UPDATE db_log SET attribute_type = 'Metric' WHERE run_id = 'spoilt' AND attribute_key = 'rows'")
    database.sql("DELETE FROM db_log WHERE run_id = 'headless' AND attribute_type = 'RunLog'")
    found = upkeep.check(store)
    assert not found["well"] and found["headless"] == ["headless"] and found["runs"] == 3
    unreadable = {(each["run_id"], each["attribute_type"], each["attribute_key"]) for each in found["unreadable"]}
    assert unreadable == {("spoilt", "Step", "load"), ("spoilt", "Metric", "rows")}


def test_a_check_finds_duplicates_and_a_missing_index(local: DBStore, sqlite_file: SqliteFile) -> None:
    local.put_run_log(sample_run("run"))
    for (name,) in sqlite_file.sql("SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%UNIQUE%'"):
        sqlite_file.sql(f"DROP INDEX {name}")
    columns = "run_id, attribute_type, attribute_key, attribute_value, created_at"
    sqlite_file.sql(f"INSERT INTO db_log ({columns}) SELECT {columns} FROM db_log WHERE attribute_key = 'load'")
    found = upkeep.check(local)
    assert (found["duplicates"], found["well"]) == ({"run": 1}, False)
    assert found["missing"] == ["the unique index over run_id, attribute_type, attribute_key"]


def test_a_project_folder_can_be_moved_into_a_database_and_out_again(local: DBStore, tmp_path: Path) -> None:
    source = FileSystemRunLogstore(log_folder=str(tmp_path / "in"))
    for number in range(5):
        source.put_run_log(sample_run(f"run-{number}"))
    assert all(outcome.done for outcome in import_from(local, tmp_path / "in"))
    shutil.rmtree(str(tmp_path / "in"))
    run_ids = [f"run-{number}" for number in range(5)]
    assert all(outcome.done for outcome in transfer.export_runs(local, run_ids, tmp_path / "in"))
    for run_id in run_ids:
        assert as_json(source.get_run_log_by_id(run_id)) == as_json(sample_run(run_id))

"""Test the output of steps, the lineage of files, the comparison of runs, and the resume command."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, SqliteFile
from logs import attempted_step, sample_run, step
from magnus import utils
from magnus.datastore import RunLog
from test_liveness import db

from magnus_peewee_store import DBStore, RunNotFoundError, open_store, runs
from magnus_peewee_store.runs.lineage import hash_of

FUNCTIONS = """
from pathlib import Path
from pydantic import create_model

def load():
    print("loaded 3 rows")
    return create_model("Rows", rows=(int, 3))()

def check(rows: int):
    print("checking", rows)
    if not Path("fixed").exists():
        raise ValueError("row 3 is bad")
"""
STEPS = {
    "load": {
        "type": "task",
        "command": "functions.load",
        "next": "check it",
        "catalog": {"put": ["data.csv"]},
    },
    "check it": {"type": "task", "command": "functions.check", "next": "success", "catalog": {"get": ["data.csv"]}},
    "success": {"type": "success"},
    "fail": {"type": "fail"},
}


@pytest.fixture
def failed_run(project: Project) -> Project:
    """Return a project with a run that failed at its second step."""
    project.write(
        functions_py=FUNCTIONS,
        config_yaml={"run_log_store": {"type": "db"}, "catalog": {"type": "file-system"}},
        pipeline_yaml={"dag": {"start_at": "load", "steps": STEPS}},
        parameters_yaml={"rows": 1, "lr": 0.123456789},
        data_csv="a,b\n1,2\n",
    )
    project.execute("first", "-p", "parameters.yaml", fails=True)
    return project


def test_logs_prints_the_output_of_failed_steps_first(failed_run: Project) -> None:
    output = failed_run.magnus("db", "logs", "latest:FAIL")
    assert output.index("check it FAIL") < output.index("checking 3") < output.index("row 3 is bad")
    assert "ValueError: row 3 is bad" in output and output.index("row 3 is bad") < output.index("load SUCCESS")
    assert "loaded 3 rows" in failed_run.magnus("db", "logs", "latest", "load")
    assert "checking" not in failed_run.magnus("db", "logs", "latest", "load")


def test_unreachable_catalog_is_explained(failed_run: Project) -> None:
    (failed_run.folder / ".catalog").rename(failed_run.folder / "moved")
    output = failed_run.magnus("db", "logs", "first")
    assert "The catalog is not reachable from here:" in output and output.count("Run this in the folder") == 1
    assert "row 3 is bad" in output
    assert "checking 3" in failed_run.magnus("db", "logs", "first", "--catalog", "moved")


def test_logs_reads_the_configured_catalog(failed_run: Project) -> None:
    (failed_run.folder / ".catalog").rename(failed_run.folder / "moved")
    catalog = {"type": "file-system", "config": {"catalog_location": "moved"}}
    failed_run.write(config_yaml={"run_log_store": {"type": "db"}, "catalog": catalog})
    assert "checking 3" in failed_run.magnus("db", "logs", "first", "-c", "config.yaml")


@pytest.fixture
def catalog(sqlite_file: SqliteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the catalog of the working folder, with the data of two runs, and a private file beside it."""
    monkeypatch.chdir(tmp_path)
    catalog = tmp_path / ".catalog"
    for folder in (catalog / "run", catalog / "other"):
        folder.mkdir(parents=True)
        (folder / "output").write_text("PRIVATE")
    (tmp_path / "secret").write_text("PRIVATE")
    (catalog / "run" / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(str(catalog / "run" / "fifo"))
    (catalog / "linked").symlink_to(tmp_path)
    return catalog


def logs_of(sqlite_file: SqliteFile, run_id: str, path: str, location: str = ".catalog") -> str:
    """Write a run whose row names a file as the output of its step, and return what `magnus db logs` prints."""
    data = {"name": "load.execution.log", "stage": "put", "data_hash": "0"}
    data.update(catalog_relative_path=path, catalog_handler_location=location)
    load = step("load", status="SUCCESS", data_catalog=[data])
    store = DBStore(connection_string=sqlite_file.url)
    store.put_run_log(RunLog(run_id=run_id, status="SUCCESS", steps={"load": load}))
    return db("logs", run_id, "--connection-string", sqlite_file.url)


@pytest.mark.parametrize("run_id", ["run", "..", ".", "linked", "/"])
def test_logs_opens_only_files_in_the_folder_of_the_run(sqlite_file: SqliteFile, catalog: Path, run_id: str) -> None:
    folder = catalog.parent
    places = (
        "../secret",
        "run/../../secret",
        "secret",
        "run/link",
        "run/fifo",
        "other/output",
        "linked/secret",
        "/dev/zero",
        "\0",
    )
    for path in (f"{folder}/secret", *places):
        for location in (".catalog", str(folder)):
            assert "PRIVATE" not in logs_of(sqlite_file, run_id, path, location)


def test_logs_opens_files_of_a_reused_run(sqlite_file: SqliteFile, catalog: Path) -> None:
    assert "PRIVATE" in logs_of(sqlite_file, "other", "other/output", "/nowhere")
    load = step("load", status="SUCCESS", mock=True)
    rerun = RunLog(run_id="run", original_run_id="other", status="SUCCESS", steps={"load": load})
    DBStore(connection_string=sqlite_file.url).put_run_log(rerun)
    assert "PRIVATE" in db("logs", "run", "--connection-string", sqlite_file.url)


def test_logs_prints_the_end_of_a_large_file(
    sqlite_file: SqliteFile, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnus_peewee_store.cli.show.LARGEST_OUTPUT", 10)
    (catalog / "run" / "output").write_text("begin\n" + "x" * 10)
    output = logs_of(sqlite_file, "run", "run/output")
    assert "The first 6 are not shown." in output and "x" * 10 in output and "begin" not in output


def test_failed_run_is_resumed_by_the_command_that_show_prints(failed_run: Project) -> None:
    output = failed_run.magnus("db", "show", "latest")
    command = output.rstrip().rpartition("Resume it with: ")[2].split()
    expected = "magnus execute -f pipeline.yaml -c config.yaml -p parameters.yaml --use-cached first"
    assert command == expected.split()
    assert "rows: 3 (set by a step)" in output and "lr: 0.123457\n" in output
    (failed_run.folder / "fixed").touch()
    failed_run.run(*command, "--run-id", "second")
    shown = failed_run.magnus("db", "show", "second")
    assert "load SUCCESS (reused from first)" in shown and "Resume it" not in shown
    assert "put data.csv" in shown
    assert "(reused from first)" in failed_run.magnus("db", "diff", "first", "second")
    assert "2 of 2 runs deleted" in failed_run.magnus("db", "prune", "--keep", "0", "--catalog", ".catalog", "--yes")
    assert not os.listdir(failed_run.folder / ".catalog")


def test_lineage_finds_the_runs_that_used_a_file(failed_run: Project) -> None:
    path = failed_run.folder / "data.csv"
    output = failed_run.magnus("db", "lineage", "data.csv", "--json")
    uses = json.loads(output[output.index("[\n") :])
    assert [(use["run_id"], use["step"], use["stage"], use["name"]) for use in uses] == [
        ("first", "load", "put", "data.csv"),
        ("first", "check it", "get", "data.csv"),
    ]
    assert "wrote" in failed_run.magnus("db", "lineage", utils.get_data_hash(str(path))[:8])
    path.write_text("other")
    assert "No run read or wrote content" in failed_run.magnus("db", "lineage", "data.csv")
    assert "Traceback" not in failed_run.magnus("db", "lineage", "missing.csv", fails=True)


def put(store: DBStore, run_id: str, data_hash: str = "0" * 64, seconds: float = 1, **parameters: Any) -> None:
    data = [{"name": "sales.csv", "data_hash": data_hash, "stage": "get"}]
    load = attempted_step("load", "10:00:00", f"10:00:{seconds:09.6f}", data_catalog=data)
    store.put_run_log(RunLog(run_id=run_id, status="SUCCESS", steps={"load": load}, parameters=parameters))


def test_lineage_on_every_database(store: DBStore) -> None:
    put(store, "old", "abc123" + "0" * 58)
    put(store, "new", "abc123" + "1" * 58)
    assert [use.run_id for use in runs.lineage(store, "abc123")] == ["old", "new"]
    [use] = runs.lineage(store, "abc123" + "1" * 58)
    assert use[:4] == ("new", "load", "get", "sales.csv") and use.started is not None
    assert runs.lineage(store, "bc123f") == []


def put_data(store: DBStore, run_id: str, *uses: str, **attributes: Any) -> None:
    """Write a run. Each use is a stage, the name of a file, and 6 digits of its hash."""
    if not store.table.has(run_id):
        store.create_run_log(run_id)
    for number, use in enumerate(uses):
        stage, name, data_hash = use.split()
        data = {"stage": stage, "name": name, "data_hash": data_hash + "0" * 58}
        store.add_step_log(attempted_step(f"s{number}", "10:00:00", "10:00:01", data_catalog=[data]), run_id)


def test_versions_of_a_file(store: DBStore) -> None:
    put_data(store, "one", "put data/sales.csv aaaaaa", "get sales.csv aaaaaa", "put data/other_sales.csv cccccc")
    put_data(store, "two", "put data/sales.csv bbbbbb")
    put_data(store, "three", "put data/sales.csv aaaaaa")
    for name in ("data/sales.csv", "sales.csv", "./data/sales.csv"):
        a, b = runs.versions(store, name)
        assert (a.data_hash[:6], a.run_ids) == ("aaaaaa", ("one", "three"))
        assert (b.data_hash[:6], b.run_ids, b.first_seen) == ("bbbbbb", ("two",), b.last_seen)
        assert a.first_seen and b.first_seen and a.last_seen and a.first_seen < b.first_seen < a.last_seen
    assert [use.run_id for use in runs.lineage(store, "data/sales.csv")] == ["one", "one", "two", "three"]
    assert runs.versions(store, "ales.csv") == runs.versions(store, "elsewhere/sales.csv.gz") == []


def test_versions_of_a_name_outside_ascii(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    put_data(store, "run", "put data/r\u00e9sum\u00e9.csv aaaaaa", 'put data/a"%_\\b.csv bbbbbb')
    assert len(runs.versions(store, 'a"%_\\b.csv')) == 1
    [(value,)] = sqlite_file.sql("SELECT attribute_value FROM db_log WHERE attribute_key = 's0'")
    unescaped = json.dumps(json.loads(value), ensure_ascii=False)  # as other software may write it
    for text in (value, unescaped):
        sqlite_file.sql("UPDATE db_log SET attribute_value = ? WHERE attribute_key = 's0'", text)
        assert len(runs.versions(store, "data/r\u00e9sum\u00e9.csv")) == 1


def test_lineage_of_a_path_is_that_of_its_content(store: DBStore, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("rows")
    put_data(store, "other", "put data.csv aaaaaa")
    store.add_step_log(
        step("s", data_catalog=[{"stage": "put", "name": "x", "data_hash": utils.get_data_hash(str(path))}]), "other"
    )
    assert [use.name for use in runs.lineage(store, path)] == ["x"]
    path.write_text("changed")
    assert runs.lineage(store, path) == []


def test_command_lineage_lists_the_versions_of_a_file(
    sqlite_file: SqliteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--connection-string", sqlite_file.url)
    store = DBStore(connection_string=sqlite_file.url)
    put_data(store, "one", "put data/sales.csv aaaaaa")
    put_data(store, "two", "put data/sales.csv bbbbbb")
    shown = db("lineage", "data/sales.csv", *options)
    assert "HASH FIRST SEEN LAST SEEN RUNS aaaaaa000000" in shown and shown.endswith("two")
    found = json.loads(db("lineage", "sales.csv", "--json", *options))
    assert [(each["data_hash"][:6], each["run_ids"]) for each in found] == [("aaaaaa", ["one"]), ("bbbbbb", ["two"])]
    (tmp_path / "sales.csv").write_text("new")  # now it is a file with a content that no run has used
    shown = db("lineage", "sales.csv", *options)
    assert "No run read or wrote content" in shown and "Versions of sales.csv: HASH" in shown
    assert "no run has catalogued one" in db("lineage", "none.csv", *options, exit_code=1)


def test_upstream_walks_back_to_the_first_writers(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    put_data(store, "collect", "put sales.csv aaaaaa", "get sales.csv aaaaaa")
    put_data(store, "train", "put sales.csv aaaaaa", "get sales.csv aaaaaa", "put model.bin bbbbbb")
    put_data(store, "again", "put model.bin bbbbbb")
    put_data(store, "score", "put model.bin bbbbbb", "get model.bin bbbbbb", "get sales.csv aaaaaa", "get none eeeeee")
    found = [(each.run_id, each.name, each.source.run_id) for each in runs.upstream(store, "score")]
    assert sorted(found) == [
        ("score", "model.bin", "train"),
        ("score", "sales.csv", "collect"),
        ("train", "sales.csv", "collect"),
    ]
    options = ("--connection-string", sqlite_file.url)
    shown = db("lineage", "--upstream", "score", *options)
    assert "model.bin bbbbbb000000 from train s2" in shown and shown.count("from collect s0") == 2
    assert len(json.loads(db("lineage", "--upstream", "train", "--json", *options))) == 1
    assert "No other run wrote" in db("lineage", "--upstream", "collect", *options)
    for wrong in ([], ["a.csv", "--upstream", "train"]):
        db("lineage", *wrong, *options, exit_code=2)


@pytest.mark.parametrize("text", ["missing.csv", "abc12", "g" * 8])
def test_text_that_is_neither_file_nor_hash_raises(sqlite_file: SqliteFile, text: str) -> None:
    with pytest.raises(FileNotFoundError, match="no such file, no run has catalogued one, and it is not a hash"):
        runs.lineage(DBStore(connection_string=sqlite_file.url), text)


def test_hash_of_a_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="It is a folder. Name a file"):
        hash_of(str(tmp_path))


def test_compare_returns_what_differs_between_runs(store: DBStore) -> None:
    put(store, "a", lr=0.1, same=1)
    put(store, "b", lr=0.1, same=1, seconds=1.09)
    put(store, "c", "1" * 64, lr=0.2, same=1, seconds=1.3)
    found = runs.compare([runs.read_run(store, run_id) for run_id in "abc"])
    assert found.parameters == {"lr": {"a": 0.1, "b": 0.1, "c": 0.2}}
    assert found.data == {"load get sales.csv": {"a": "0" * 64, "b": "0" * 64, "c": "1" * 64}}
    assert {run: value.duration for run, value in found.steps["load"].items()} == {"a": 1.0, "b": 1.09, "c": 1.3}
    same = runs.compare([runs.read_run(store, run_id) for run_id in "ab"])
    assert not any(same)


def test_latest_names_runs(store: DBStore) -> None:
    for run_id, status in (("one", "FAIL"), ("two", "SUCCESS"), ("three", "FAIL"), ("four", "SUCCESS")):
        store.put_run_log(sample_run(run_id, status))
        store.set_run_config(run_id, {"says": {"status": "FAIL"}})
    places = {
        "latest": "four",
        "latest~0": "four",
        "latest~1": "three",
        "latest~3": "one",
        "latest:FAIL": "three",
        "latest:failed": "three",
    }
    assert {place: runs.find_run(store, place) for place in places} == places
    with pytest.raises(RunNotFoundError, match="There is no run 'latest~4': the database has 4"):
        runs.find_run(store, "latest~4")
    with pytest.raises(RunNotFoundError, match="no run has the status 'CREATED'"):
        runs.find_run(store, "latest:CREATED")
    with pytest.raises(RunNotFoundError, match="There is no run '-1'"):
        runs.find_run(store, "-1")


@pytest.mark.parametrize("run_id", ["latest", "latest~1", "latest:FAIL"])
def test_run_named_like_another_run_is_ambiguous(store: DBStore, run_id: str) -> None:
    store.put_run_log(sample_run(run_id, "FAIL"))
    if run_id != "latest~1":
        assert runs.find_run(store, run_id) == run_id  # It is the newest.
    store.put_run_log(sample_run("other", "FAIL"))
    store.put_run_log(sample_run("third", "FAIL"))
    for find in (runs.find_run, runs.read_run):
        with pytest.raises(RunNotFoundError) as error:
            find(store, run_id)
        assert error.value.is_ambiguous and error.value.nearest[0] == run_id
        assert str(error.value).count(f"'{error.value.nearest[1]}'") == 1
    assert runs.find_run(store, "late") == run_id


def test_run_named_like_a_missing_run_is_found(store: DBStore) -> None:
    store.create_run_log("latest:done")
    assert runs.find_run(store, "latest:done") == "latest:done"


def test_open_store_finds_what_the_commands_find(failed_run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(failed_run.folder)
    store = open_store("config.yaml")
    assert [run.run_id for run in runs.search(store)] == ["first"]
    store.close()

"""Test tags, notes and owners of runs. Commands such as prune, export and copy choose runs by them."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import AnyDatabase, SqliteFile
from logs import sample_run, step
from test_liveness import db

from magnus_peewee_store import DBStore, RunNotFoundError, runs
from magnus_peewee_store.exceptions import InvalidValueError
from magnus_peewee_store.origin import repository_name


def ids(store: DBStore, *where: str) -> Any:
    return [run.run_id for run in runs.search(store, where)]


def test_tags_are_found_like_the_own_tag_of_a_run(store: DBStore) -> None:
    for run_id, own in (("own", "nightly"), ("added", ""), ("neither", "weekly"), ("none", "")):
        store.create_run_log(run_id, tag=own)
    runs.tag_run(store, "added", "nightly", "released")
    assert [run.run_id for run in runs.list_runs(store, tag="nightly")] == ["added", "own"]
    assert ids(store, "tag=released") == ["added"] and ids(store, "tag~LEASE") == ["added"]
    assert ids(store, "tag!=nightly") == ["none", "neither"]
    assert ids(store, "tag=") == ["none"]


def test_tags_change_neither_order_nor_created_at(store: DBStore, database: AnyDatabase) -> None:
    store.create_run_log("first")
    store.create_run_log("second")
    before = runs.list_runs(store)
    runs.tag_run(store, "first", "kept")
    runs.add_note(store, "first", "looks good")
    after = runs.list_runs(store)
    assert [(run.run_id, run.started) for run in after] == [(run.run_id, run.started) for run in before]
    assert after[1].tags == ("kept",) and [note.text for note in after[1].notes] == ["looks good"]


def test_untag_removes_only_that_tag(store: DBStore) -> None:
    store.create_run_log("run", tag="own")
    runs.tag_run(store, "run", "a", "b")
    runs.untag_run(store, "run", "a", "never there")
    assert runs.read_run(store, "run").tags == ("b",) and ids(store, "tag=a") == []
    runs.tag_run(store, "run", "a")
    assert sorted(runs.read_run(store, "run").tags) == ["a", "b"]


def test_annotations_need_an_existing_run(store: DBStore) -> None:
    for annotate in (lambda: runs.tag_run(store, "run", "a"), lambda: runs.add_note(store, "run", "text")):
        with pytest.raises(RunNotFoundError):
            annotate()
    assert not store.table.has("run")


@pytest.mark.parametrize("text", ["", " "])
def test_empty_annotations_are_refused(sqlite_file: SqliteFile, text: str) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run")
    assert "must not be empty" in db("tag", "run", text, "--connection-string", sqlite_file.url, exit_code=1)
    assert "must not be empty" in db("note", "run", text, "--connection-string", sqlite_file.url, exit_code=1)


def test_annotations_are_not_part_of_the_run_log(store: DBStore) -> None:
    store.put_run_log(sample_run("run"))
    before = store.get_run_log_by_id("run", full=True)
    runs.tag_run(store, "run", "a")
    runs.add_note(store, "run", "text")
    assert repr(store.get_run_log_by_id("run", full=True)) == repr(before)
    assert runs.check(store).is_healthy


def test_commands_tag_and_note(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("calm-hoover", tag="own")
    database = ("--connection-string", sqlite_file.url)
    assert db("tag", "calm", "released", "best", *database) == "Tagged calm-hoover with released, best."
    assert db("note", "calm", "last year's prices", *database) == "Added note 1 to calm-hoover."
    shown = db("show", "calm", *database)
    assert "tag own, released, best" in shown and "note 1 last year's prices" in shown
    assert "calm-hoover" in db("runs", "--tag", "best", *database)
    as_json = json.loads(db("runs", "--json", *database))
    assert as_json[0]["tags"] == ["released", "best"] and as_json[0]["notes"][0]["text"] == "last year's prices"
    assert db("untag", "calm", "best", *database) == "Removed best from calm-hoover."
    assert "That tag was given to magnus execute" in db("untag", "calm", "own", *database, exit_code=1)
    assert runs.read_run(store, "calm").tags == ("released",)


def test_tag_takes_several_runs_or_conditions(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    for run_id, status in (("one", "FAIL"), ("two", "FAIL"), ("three", "SUCCESS")):
        store.create_run_log(run_id, status=status)
    database = ("--connection-string", sqlite_file.url)
    assert db("tag", "one", "a", "b", "--run", "three", *database) == "Tagged one, three with a, b."
    assert db("tag", "bad", "--where", "status=FAIL", *database) == "Tagged two, one with bad."
    assert db("tag", "bad", "--where", "run_id=four", *database) == "No runs match."
    assert ids(store, "tag=b") == ["three", "one"] and ids(store, "tag=bad") == ["two", "one"]
    db("tag", "one", "c", "--run", "four", *database, exit_code=1)
    assert ids(store, "tag=c") == []
    for wrong in (["one"], ["one", "a", "--run", "two", "--where", "status=FAIL"]):
        db("tag", *wrong, *database, exit_code=2)


def test_notes_are_edited_and_deleted_by_number(store: DBStore, database: AnyDatabase) -> None:
    store.create_run_log("run")
    assert [runs.add_note(store, "run", text) for text in ("first", "secnod", "third")] == [1, 2, 3]
    options = ("--connection-string", database.url)
    assert db("note", "run", "--delete", "1", *options) == "Deleted note 1 of run: first"
    assert db("note", "run", "--edit", "2", "second", *options) == "Changed note 2 of run."
    assert [(note.number, note.text) for note in runs.read_run(store, "run").notes] == [(2, "second"), (3, "third")]
    [run] = runs.summarize(store, ["run"])
    assert [(note.number, note.text) for note in run.notes] == [(2, "second"), (3, "third")]
    for change in (["--delete", "1"], ["--edit", "4", "text"], ["--edit", "2", " "]):
        db("note", "run", *change, *options, exit_code=1)
    for wrong in ([], ["--edit", "2"], ["--delete", "2", "text"], ["--edit", "2", "--delete", "3"]):
        db("note", "run", *wrong, *options, exit_code=2)


@pytest.mark.parametrize("is_deleted_last", [True, False])
def test_copies_keep_the_last_change_of_a_note(tmp_path: Path, is_deleted_last: bool) -> None:
    stores = [DBStore(connection_string=f"sqlite:///{tmp_path}/{name}.db") for name in ("one", "other")]
    stores[0].create_run_log("run")
    runs.add_note(stores[0], "run", "text")
    list(runs.copy_runs(*stores, ["run"]))
    changes = [
        lambda: runs.edit_note(stores[0], "run", 1, "new"),
        lambda: runs.delete_note(stores[1], "run", 1),
    ]
    for change in changes if is_deleted_last else reversed(changes):
        change()
    if not is_deleted_last:
        assert runs.read_run(stores[1], "run").notes == ()
    list(runs.copy_runs(*stores, ["run"]))
    list(runs.copy_runs(*reversed(stores), ["run"]))
    for store in stores:
        texts = [note.text for note in runs.read_run(store, "run").notes]
        assert texts == ([] if is_deleted_last else ["new"])


def test_export_and_import_carry_tags_and_notes(store: DBStore, tmp_path: Path) -> None:
    store.put_run_log(sample_run("run.1"))
    store.create_run_log("bare")
    runs.tag_run(store, "run.1", "a", "b")
    runs.untag_run(store, "run.1", "a")
    for text in ("wrong", "r\u00e9sum\u00e9"):
        runs.add_note(store, "run.1", text)
    runs.delete_note(store, "run.1", 1)
    before = runs.read_run(store, "run.1")
    assert [outcome.status for outcome in runs.export_runs(store, ["run.1", "bare"], tmp_path / "out")] == [
        "written"
    ] * 2
    assert sorted(os.listdir(tmp_path / "out")) == ["bare.json", "run.1.json", "run.1.meta"]
    for run_id in ("run.1", "bare"):
        store.table.delete(run_id)
    assert [each.status for each in runs.import_runs(store, runs.find_run_logs(tmp_path / "out"))] == ["written"] * 2
    after = runs.read_run(store, "run.1")
    assert (after.tags, after.notes) == (before.tags, before.notes) == (("b",), before.notes)
    assert [note.number for note in after.notes] == [2] and runs.read_run(store, "bare").notes == ()
    with pytest.raises(InvalidValueError):
        runs.delete_note(store, "run.1", 1)


def test_export_removes_the_notes_of_another_run(sqlite_file: SqliteFile, tmp_path: Path) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.meta").write_text('{"Tag": {"old": {"is_set": true}}}')
    list(runs.export_runs(store, ["run"], tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == ["run.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"Tag": 1}', '{"RunLog": {"run_log": {}}, "Tag": {"a": 1}}'])
def test_damaged_file_of_tags_does_not_keep_a_run_out(sqlite_file: SqliteFile, tmp_path: Path, text: str) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.put_run_log(sample_run("run"))
    list(runs.export_runs(store, ["run"], tmp_path / "out"))
    store.table.delete("run")
    (tmp_path / "out" / "run.meta").write_text(text)
    [outcome] = runs.import_runs(store, runs.find_run_logs(tmp_path / "out"))
    assert outcome.status == ("written" if "RunLog" in text else "incomplete")
    assert runs.read_run(store, "run").run_log.status == "SUCCESS" and ids(store, "tag=") == ["run"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/team/sales.git", "github.com/team/sales"),
        ("https://ann:token@github.com/team/sales.git", "github.com/team/sales"),
        ("git@github.com:team/sales.git", "github.com/team/sales"),
        ("ssh://git@github.com:22/team/sales", "github.com/team/sales"),
        ("/srv/git/sales.git", "/srv/git/sales.git"),
    ],
)
def test_project_is_the_repository_without_credentials(url: str, name: str) -> None:
    assert repository_name(url) == name


def put_run(store: DBStore, run_id: str, project: str, **attributes: Any) -> None:
    code = {"code_identifier": "5f0f5e2", "code_identifier_url": f"https://github.com/team/{project}.git"}
    config = {
        "pipeline_file": f"{project}.yaml",
        "started_by": {"user": "ann", "host": "laptop", "folder": "work", "utc_offset": 0},
        "catalog_handler": {"service_name": "file-system", "catalog_location": ".catalog"},
    }
    run_log = sample_run(run_id, run_config=config, **attributes)
    run_log.steps["load"] = step("load", status="SUCCESS", code_identities=[code])
    store.put_run_log(run_log)


def test_runs_are_found_by_project_pipeline_user_and_host(store: DBStore) -> None:
    put_run(store, "sales", "sales")
    put_run(store, "stock", "stock")
    assert ids(store, "project=github.com/team/sales") == ids(store, "pipeline=sales.yaml") == ["sales"]
    assert ids(store, "user=ann", "host=laptop") == ["stock", "sales"] and ids(store, "user=bob") == []


def test_project_without_a_remote_is_the_folder(store: DBStore) -> None:
    store.create_run_log("run")
    store.set_run_config("run", {"started_by": {"folder": "sales", "user": 5}})
    run = runs.read_run(store, "run")
    assert (run.project, run.origin.user) == ("sales", None)


def test_prune_of_one_project_never_touches_another(store: DBStore) -> None:
    for number in range(4):
        put_run(store, f"sales {number}", "sales")
        put_run(store, f"stock {number}", "stock")
    found = runs.prunable(store, keep=1, where=["project~sales"])
    assert found.run_ids == ["sales 0", "sales 1", "sales 2"]


def test_prune_spares_tagged_runs(store: DBStore) -> None:
    for run_id in ("own", "added", "other"):
        put_run(store, run_id, "sales", tag="released" if run_id == "own" else "")
    runs.tag_run(store, "added", "released")
    assert runs.prunable(store, keep=0, keep_tags=["released"]).run_ids == ["other"]


def test_export_and_copy_choose_runs_by_conditions(sqlite_file: SqliteFile, tmp_path: Path) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    put_run(store, "sales", "sales")
    put_run(store, "stock", "stock")
    choice = ("--where", "project~sales", "--connection-string", sqlite_file.url)
    db("export", "-o", str(tmp_path / "exported"), *choice)
    assert os.listdir(tmp_path / "exported") == ["sales.json"]
    db("copy", "--to", f"sqlite:///{tmp_path}/copy.db", *choice)
    assert [run.run_id for run in runs.list_runs(DBStore(connection_string=f"sqlite:///{tmp_path}/copy.db"))] == [
        "sales"
    ]


def put_run_with_data(store: DBStore, catalog: Path, run_id: str, location: str = ".catalog") -> Path:
    """Write a run that put a file into a catalog, and return its folder there."""
    put_run(store, run_id, "sales")
    store.set_run_config(run_id, {"catalog_handler": {"service_name": "file-system", "catalog_location": location}})
    data = {"name": "rows.csv", "data_hash": "0", "catalog_relative_path": f"{run_id}/rows.csv", "stage": "put"}
    store.add_step_log(step("put", status="SUCCESS", data_catalog=[data]), run_id)
    folder = catalog / run_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").touch()
    return folder


def test_prune_deletes_the_catalog_of_runs_on_request(
    sqlite_file: SqliteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = DBStore(connection_string=sqlite_file.url)
    for run_id in ("old", "new"):
        put_run_with_data(store, tmp_path / ".catalog", run_id)
    prune = ("prune", "--keep", "1", "--yes", "--connection-string", sqlite_file.url)
    dry = db(*prune, "--dry-run")
    assert "The data of 1 run stays in the catalog. To delete it, too, add --catalog .catalog" in dry
    assert "1 of 1 run deleted" in db(*prune, "--catalog", ".catalog")
    assert os.listdir(".catalog") == ["new"]


@pytest.mark.parametrize("location", ["{folder}/a/catalog", "catalog", "./a/catalog", "a/../catalog"])
def test_prune_deletes_from_the_catalog_that_the_run_names(
    sqlite_file: SqliteFile, tmp_path: Path, location: str
) -> None:
    store, catalog = DBStore(connection_string=sqlite_file.url), tmp_path / "a" / "catalog"
    folder = put_run_with_data(store, catalog, "run", location.format(folder=tmp_path))
    db("prune", "--keep", "0", "--yes", "--catalog", str(catalog), "--connection-string", sqlite_file.url)
    assert not folder.exists()


@pytest.mark.parametrize(
    "location", ["{folder}", "other/catalog", "talog", ".", "", "{folder}/b/catalog", "../catalog"]
)
def test_prune_keeps_a_folder_if_the_run_names_another_catalog(
    sqlite_file: SqliteFile, tmp_path: Path, location: str
) -> None:
    store, catalog = DBStore(connection_string=sqlite_file.url), tmp_path / "a" / "catalog"
    folder = put_run_with_data(store, catalog, "run", location.format(folder=tmp_path))
    options = ("--catalog", str(catalog), "--connection-string", sqlite_file.url)
    output = db("prune", "--keep", "0", "--yes", *options)
    assert "The run used another catalog." in output and folder.is_dir()


def test_prune_keeps_a_folder_with_files_that_the_run_did_not_record(sqlite_file: SqliteFile, tmp_path: Path) -> None:
    folder = put_run_with_data(DBStore(connection_string=sqlite_file.url), tmp_path, "home", str(tmp_path))
    (folder / "ann").mkdir()
    (folder / "ann" / "thesis.tex").touch()
    options = ("--catalog", str(tmp_path), "--connection-string", sqlite_file.url)
    output = db("prune", "--keep", "0", "--yes", *options)
    assert "The run did not record the file 'ann/thesis.tex'." in output and (folder / "rows.csv").exists()


def test_advice_of_prune_can_be_pasted(
    sqlite_file: SqliteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAGNUS_DB_CONNECTION_STRING", sqlite_file.url)
    location = "my catalog; touch PWNED #"
    Path("magnus-config.yaml").write_text(
        json.dumps({"defaults": {"catalog": {"config": {"catalog_location": location}}}})
    )
    put_run_with_data(DBStore(connection_string=sqlite_file.url), Path(location), "run", location)
    output = db("prune", "--keep", "0", "--dry-run")
    assert shlex.split(output.partition(" add ")[2])[:2] == ["--catalog", location]


@pytest.mark.parametrize("run_id", ["..", ".", "../outside", "a/b"])
def test_prune_deletes_nothing_outside_of_the_catalog(sqlite_file: SqliteFile, tmp_path: Path, run_id: str) -> None:
    for folder in (tmp_path / "outside", tmp_path / "catalog" / "a" / "b"):
        folder.mkdir(parents=True)
    DBStore(connection_string=sqlite_file.url).create_run_log(run_id, status="FAIL")
    options = ("--keep", "0", "--yes", "--catalog", str(tmp_path / "catalog"), "--connection-string", sqlite_file.url)
    db("prune", *options)
    assert (tmp_path / "outside").is_dir() and (tmp_path / "catalog" / "a" / "b").is_dir()


def test_tags_and_notes_that_cannot_be_read_are_left_out(store: DBStore) -> None:
    store.create_run_log("run")
    runs.tag_run(store, "run", "good")
    runs.add_note(store, "run", "good")
    store.table.upsert("run", [("Tag", "bad", "{"), ("Tag", "odd", "3"), ("Note", "bad", "{"), ("Note", "odd", "[]")])
    run = runs.read_run(store, "run")
    assert run.tags == ("good",) and [note.text for note in run.notes] == ["good"]
    assert [row.attribute_key for row in run.unreadable] == ["bad", "bad"]

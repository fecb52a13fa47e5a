"""Test tags, notes and owners of runs. Commands such as prune, export and copy choose runs by them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import AnyDatabase, SqliteFile
from logs import sample_run, step
from test_liveness import db

from magnus_peewee_store import DBStore, RunNotFoundError, runs
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
    db("tag", "calm", "released", "best", *database)
    db("note", "calm", "last year's prices", *database)
    shown = db("show", "calm", *database)
    assert "tag own, released, best" in shown and "note last year's prices" in shown
    assert "calm-hoover" in db("runs", "--tag", "best", *database)
    as_json = json.loads(db("runs", "--json", *database))
    assert as_json[0]["tags"] == ["released", "best"] and as_json[0]["notes"][0]["text"] == "last year's prices"
    db("untag", "calm", "best", *database)
    assert "That tag was given to magnus execute" in db("untag", "calm", "own", *database, exit_code=1)
    assert runs.read_run(store, "calm").tags == ("released",)


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


def test_prune_deletes_the_catalog_of_runs_on_request(
    sqlite_file: SqliteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = DBStore(connection_string=sqlite_file.url)
    for run_id in ("old", "new"):
        put_run(store, run_id, "sales")
        (tmp_path / ".catalog" / run_id).mkdir(parents=True)
        (tmp_path / ".catalog" / run_id / "rows.csv").touch()
    prune = ("prune", "--keep", "1", "--yes", "--connection-string", sqlite_file.url)
    dry = db(*prune, "--dry-run")
    assert "The data of 1 run stays in the catalog .catalog. To delete it, too, add --catalog .catalog" in dry
    assert "1 of 1 run deleted" in db(*prune, "--catalog", ".catalog")
    assert os.listdir(".catalog") == ["new"]


@pytest.mark.parametrize("run_id", ["..", ".", "../outside", "a/b"])
def test_prune_deletes_nothing_outside_of_the_catalog(sqlite_file: SqliteFile, tmp_path: Path, run_id: str) -> None:
    for folder in (tmp_path / "outside", tmp_path / "catalog" / "a" / "b"):
        folder.mkdir(parents=True)
    DBStore(connection_string=sqlite_file.url).create_run_log(run_id, status="FAIL")
    options = ("--keep", "0", "--yes", "--catalog", str(tmp_path / "catalog"), "--connection-string", sqlite_file.url)
    db("prune", *options)
    assert (tmp_path / "outside").is_dir() and (tmp_path / "catalog" / "a" / "b").is_dir()

"""Questions that users ask about their runs. One command or one call answers each."""

import contextlib
import hashlib
import importlib.metadata
import platform
import textwrap
from pathlib import Path
from typing import Any, List

import pytest
from conftest import Project, SqliteFile
from logs import attempted_step, step
from magnus.datastore import RunLog
from test_cli import run_on_terminal
from test_liveness import INTERRUPTED, add_beat, db

from magnus_peewee_store import ConditionError, DBStore, RunNotFoundError, runs

RUN_IDS = ("calm-hoover-1432", "keen-curie-1433", "odd-lamarr-1440", "vigilant-shannon-1501", "happy-turing-1502")


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


@pytest.fixture
def five_runs(sqlite_file: SqliteFile) -> SqliteFile:
    """Return a database with five runs. Two runs at a time have the same commit and input."""
    store = DBStore(connection_string=sqlite_file.url)
    for number, run_id in enumerate(RUN_IDS):
        code = {"code_identifier": sha(number // 2)[:40], "code_identifier_type": "git"}
        data = [
            {"name": "data/model.bin", "data_hash": sha(number), "stage": "put"},
            {"name": "data/sales.csv", "data_hash": sha(f"sales {number // 2}"), "stage": "put"},
        ]
        metrics = {"rmse": 1 / (number + 3), "validation": {"accuracy": number / 7, "area_under_the_curve": number / 3}}
        train = attempted_step(
            "train",
            *("10:00:00", f"10:00:{number * 7:02d}"),
            user_defined_metrics=metrics,
            data_catalog=data,
            code_identities=[{**code, "code_identifier_dependable": number % 2 == 0}],
        )
        parameters = {"model": {"learning_rate": 10**-number, "layers": [1, 2, number]}, "seed": 1}
        store.put_run_log(RunLog(run_id=run_id, status="SUCCESS", steps={"train": train}, parameters=parameters))
    store.close()
    return sqlite_file


@pytest.fixture
def trained(sqlite_file: SqliteFile) -> DBStore:
    """Return a store with two runs of 100 epochs: one ends best, and the other was best in between."""
    store = DBStore(connection_string=sqlite_file.url)
    for run_id, least in (("steady", 100), ("overfitted", 20)):
        losses = {str(epoch): 1 + abs(epoch - least) / 100 - least / 1000 * (least < 50) for epoch in range(101)}
        train = attempted_step("train", "10:00:00", "10:00:01", user_defined_metrics={"loss": losses})
        store.put_run_log(RunLog(run_id=run_id, status="SUCCESS", steps={"train": train}))
    return store


def test_how_did_the_loss_develop(trained: DBStore) -> None:
    history = runs.metric_history(trained, ["steady"], "loss")
    assert history["iteration"].tolist() == [*range(101)] and history["value"].tolist()[-1] == 1


@pytest.mark.parametrize("run_ids", ["steady", "stea", ["steady"], "latest~1", "found"])
def test_the_loss_of_a_run_that_is_named_in_any_way(trained: DBStore, run_ids: Any) -> None:
    found = runs.search(trained, "run_id=steady")
    history = runs.metric_history(trained, found if run_ids == "found" else run_ids, "loss")
    assert set(history["run_id"]) == {"steady"}
    with pytest.raises(RunNotFoundError, match="There is no run 'missing'"):
        runs.metric_history(trained, ["steady", "missing"], "loss")


def test_a_text_has_no_curve(trained: DBStore) -> None:
    trained.add_step_log(step("train", user_defined_metrics={"model": "linear"}), "steady")
    with pytest.raises(ConditionError, match="The metric 'model' has no numbers"):
        runs.plot(trained, "steady", "model")


def test_how_do_the_curves_of_two_runs_compare(trained: DBStore, tmp_path: Path) -> None:
    figure = runs.plot(trained, ["steady", "overfitted"], "loss")
    assert [(curve.name, len(curve.y)) for curve in figure.data] == [("steady", 101), ("overfitted", 101)]


def test_a_notebook_shows_found_runs_as_a_table(trained: DBStore) -> None:
    trained.set_parameters("steady", {"<b>": 0.1})
    html = runs.search(trained, order_by="loss")._repr_html_()
    assert html.count("<tr>") == 3 and "<td>steady</td><td>SUCCESS</td>" in html and "<td>&lt;b&gt;</td>" in html


def test_which_run_is_best(trained: DBStore) -> None:
    assert [run.run_id for run in runs.search(trained, order_by="loss")] == ["steady", "overfitted"]
    assert [run.run_id for run in runs.search(trained, order_by="loss.min")] == ["overfitted", "steady"]


def test_which_commit_did_a_run_use(five_runs: SqliteFile) -> None:
    database = ("--connection-string", five_runs.url)
    commit = sha(0)[:40]
    assert f"code git {commit}" in db("show", "calm", *database)
    assert commit in db("runs", "--columns", "commit", "--where", "run_id=calm-hoover-1432", *database)
    found = runs.search(DBStore(connection_string=five_runs.url), f"commit={commit}", order_by="run_id")
    assert [run.run_id for run in found] == ["calm-hoover-1432", "keen-curie-1433"]


def test_what_did_a_run_run_on(project: Project) -> None:
    steps = {"a": {"type": "stub", "next": "success"}, "success": {"type": "success"}, "fail": {"type": "fail"}}
    project.write(
        pipeline_yaml={"dag": {"start_at": "a", "steps": steps}}, config_yaml={"run_log_store": {"type": "db"}}
    )
    project.execute("first")
    python, magnus = platform.python_version(), importlib.metadata.version("magnus")
    shown = project.magnus("db", "show", "first", "--environment")
    assert f"Python {python}, magnus {magnus}\n" in shown and f"\nmagnus=={magnus}\n" in shown
    assert project.magnus("db", "runs", "--csv", "--columns", "environment").endswith(
        f'run_id,environment\nfirst,"Python {python}, magnus {magnus}"\n'
    )


def test_which_versions_of_a_file_are_there(five_runs: SqliteFile) -> None:
    shown = db("lineage", "data/sales.csv", "--connection-string", five_runs.url)
    assert [sha(f"sales {number}")[:12] in shown for number in range(4)] == [True, True, True, False]
    found = runs.versions(DBStore(connection_string=five_runs.url), "data/sales.csv")
    assert [version.run_ids for version in found] == [RUN_IDS[:2], RUN_IDS[2:4], RUN_IDS[4:]]


def test_compare_five_runs_in_80_columns(five_runs: SqliteFile, tmp_path: Path) -> None:
    lines = run_on_terminal(tmp_path, "diff", *RUN_IDS, "--connection-string", five_runs.url, columns=80)
    assert max(map(len, lines)) <= 80

    def row(label: str) -> List[str]:
        """Return the cells of a row. They stand behind the label, or below it."""
        number = next(number for number, line in enumerate(lines) if line.strip().startswith(label))
        return (lines[number].strip()[len(label) :] or lines[number + 1]).split()

    assert all(f"{number} {run_id}" in map(str.strip, lines) for number, run_id in enumerate(RUN_IDS, start=1))
    assert row("learning_rate") == ["1", "0.1", "0.01", "0.001", "0.0001"]
    assert row("area_under_the_curve") == ["0.0", "0.333333", "0.666667", "1.0", "1.33333"]
    assert row("data/model.bin") == [sha(number)[:12] for number in range(5)]
    assert sha(0)[12:16] not in "".join(lines)
    assert row("train.rmse")[0] == "0.333333" and "seed" not in "".join(lines)


def test_which_runs_have_died(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    for run_id in ("alive", "silent", "killed"):
        store.put_run_log(RunLog(run_id=run_id, status="PROCESSING", steps={"load": step("load")}))
        add_beat(store, 0 if run_id == "alive" else 1000, run_id, state=INTERRUPTED if run_id == "killed" else "")
    database = ("--connection-string", sqlite_file.url)
    assert "silent" in db("runs", "--status", "STALE", *database)
    assert "killed" in db("runs", "--status", "INTERRUPTED", *database)
    assert db("show", "latest:STALE", *database).startswith("silent STALE")
    assert db("show", "latest:INTERRUPTED", *database).startswith("killed INTERRUPTED")
    assert [run.run_id for run in runs.search(store, "status=STALE")] == ["silent"]
    assert [run.run_id for run in runs.search(store, "status=PROCESSING")] == ["killed", "silent", "alive"]


@pytest.mark.parametrize(("age", "state"), [(1000, ""), (1000, INTERRUPTED), (0, "")])
def test_how_to_resume_a_run_that_died(sqlite_file: SqliteFile, age: float, state: str) -> None:
    with contextlib.closing(DBStore(connection_string=sqlite_file.url)) as store:
        store.create_run_log("run", status="PROCESSING", tag="every night")
        store.set_run_config(
            "run", {"pipeline_file": "a b.yaml", "configuration_file": "c.yaml", "parameters_file": "p"}
        )
        store.add_step_log(step("load", status="FAIL"), "run")
        add_beat(store, age=age, state=state)
        start = "magnus execute -f 'a b.yaml' -c c.yaml -p p --tag 'every night'"
        shown = db("show", "run", "--connection-string", sqlite_file.url)
        assert (f"Start it again with: {start}" in shown) == (age > 0) and "Resume" not in shown
        store.add_step_log(step("load", status="SUCCESS"), "run")
        shown = db("show", "run", "--connection-string", sqlite_file.url)
        assert (f"Resume it with: {start} --use-cached run" in shown) == (age > 0) and "Start it" not in shown


def test_how_to_resume_a_run_of_the_sdk(project: Project) -> None:
    script = """
        import sys
        from magnus import Pipeline, Task

        load = Task(name="load", command="functions.load", terminate_with_success=True)
        pipeline = Pipeline(steps=[load], start_at=load, add_terminal_nodes=True)
        pipeline.execute(configuration_file="config.yaml", ARGUMENTS)
    """
    functions = "from pathlib import Path\n\ndef load():\n    assert Path('fixed').exists()\n"
    project.write(functions_py=functions, config_yaml={"run_log_store": {"type": "db"}})
    (project.folder / "src").mkdir()
    train = project.folder / "src" / "train.py"
    train.write_text(textwrap.dedent(script).replace("ARGUMENTS", "run_id='first', tag='nightly'"))
    project.environment["PYTHONPATH"] = str(project.folder)
    project.python("src/train.py")
    shown = project.magnus("db", "show", "first")
    command = "python src/train.py, with execute(..., use_cached='first', tag='nightly')"
    assert f"Resume it with: {command}" in shown
    (project.folder / "fixed").touch()
    arguments = command.partition("..., ")[2].rstrip(")")
    train.write_text(textwrap.dedent(script).replace("ARGUMENTS", f"run_id='second', {arguments}"))
    project.python("src/train.py")
    assert "second nightly SUCCESS" in " ".join(project.magnus("db", "runs", "--columns", "run_id,tag,status").split())


@pytest.mark.parametrize("name", ["", "my notebook.ipynb"])
def test_how_to_resume_a_run_of_a_notebook(project: Project, name: str) -> None:
    code = """
        from magnus import Pipeline, Task

        load = Task(name="load", command="functions.load", terminate_with_success=True)
        Pipeline(steps=[load], start_at=load, add_terminal_nodes=True).execute("config.yaml", run_id="first")
    """
    project.write(functions_py="def load():\n    assert False\n", config_yaml={"run_log_store": {"type": "db"}})
    # As in a kernel, __main__ has no file, and Jupyter's server sets the variable to the path of the notebook.
    project.environment["JPY_SESSION_NAME"] = name and str(project.folder / name)
    project.python("-c", textwrap.dedent(code))
    start = f"the notebook '{name}'" if name else "its script"
    assert f"Resume it with: {start}, with execute(..., use_cached='first')" in project.magnus("db", "show", "first")


def test_open_in_the_notebook_of_a_subfolder(project: Project) -> None:
    section = {"run_log_store": {"type": "db", "config": {"connection_string": "sqlite:///data/runs.db"}}}
    steps = {"done": {"type": "success"}, "fail": {"type": "fail"}}
    project.write(magnus_config_yaml={"defaults": section}, pipeline_yaml={"dag": {"start_at": "done", "steps": steps}})
    (project.folder / "magnus_config.yaml").rename(project.folder / "magnus-config.yaml")
    project.run("/usr/bin/env", "git", "init", "--quiet")
    project.magnus("execute", "-f", "pipeline.yaml", "--run-id", "first")
    notebooks = project.folder / "notebooks"
    notebooks.mkdir()
    code = "from magnus_peewee_store import open_store, runs; print([run.run_id for run in runs.search(open_store())])"
    in_notebook = Project(notebooks)
    assert in_notebook.python("-c", code).splitlines()[-1] == "['first']"
    assert "first" in in_notebook.magnus("db", "runs")
    assert list(notebooks.iterdir()) == []

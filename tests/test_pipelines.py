"""End-to-end pipelines. magnus' command runs in a separate process, and plain SQL reads the table."""

import json
import re
import shutil
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Tuple

import pytest
from concurrency import run_magnus_in_forked_process
from conftest import Project
from magnus.datastore import RunLog, StepLog
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore

from magnus_peewee_store import DBStore

FUNCTIONS = """
import os
from pathlib import Path
from magnus import track_this
from pydantic import BaseModel

class Loaded(BaseModel):
    rows: int
    files: list

def load(rows: int):
    Path("rows.csv").write_text("1,2,3")
    track_this(loss=float("nan"), score={"deep": [1, None]})
    track_this(step=1, loss=0.5)
    return Loaded(rows=rows + 1, files=["jan", "feb"])

def work(file: str):
    track_this(size=len(file))

def broken():
    raise ValueError("failed on purpose")

def fail_unless_fixed():
    if not os.path.exists("fixed"):
        broken()

def check(rows: int, given: str):
    assert (rows, given) == (3, "at the start"), (rows, given)
"""

END = {"success": {"type": "success"}, "fail": {"type": "fail"}}


def dag(**steps: Any) -> Dict[str, Any]:
    """Return a graph that runs the steps in the given order."""
    names = [*steps, "success"]
    for name, following in zip(names, names[1:]):
        steps[name].setdefault("next", following)
    return {"start_at": names[0], "steps": {**steps, **END}}


def python(function: str, **more: Any) -> Dict[str, Any]:
    return {"type": "task", "command": f"functions.{function}", **more}


def mapped(iterate_on: str, branch: Dict[str, Any], iterate_as: str = "file") -> Dict[str, Any]:
    return {"type": "map", "iterate_on": iterate_on, "iterate_as": iterate_as, "branch": branch}


def parallel(**branches: Any) -> Dict[str, Any]:
    return {"type": "parallel", "branches": branches}


EVERY_NODE_TYPE = dag(
    load=python("load", catalog={"put": ["rows.csv"]}),
    shell={"type": "task", "command_type": "shell", "command": "export MAGNUS_PRM_from_shell=7 MAGNUS_TRACK_metric=1"},
    stub={"type": "stub", "any_key": ["any value"]},
    split=parallel(
        left=dag(get=python("work", catalog={"get": ["rows.csv"]}), inner=mapped("files", dag(work=python("work")))),
        right=dag(wait={"type": "stub"}),
    ),
    sub={"type": "dag", "dag_definition": "sub.yaml"},
    each=mapped("files", dag(work=python("work"), deeper=parallel(only=dag(wait={"type": "stub"})))),
)
EVERY_NODE_TYPE["steps"]["split"]["branches"]["left"]["steps"]["get"]["command"] = "functions.load"

DB = {"run_log_store": {"type": "db"}}


def rows(project: Project, sql: str, *values: Any) -> List[Any]:
    connection = sqlite3.connect(str(project.folder / ".run_log_store" / "run_log.db"))
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def run_log(project: Project, run_id: str) -> RunLog:
    store = DBStore(connection_string=f"sqlite:///{project.folder}/.run_log_store/run_log.db")
    try:
        return store.get_run_log_by_id(run_id, full=True)
    finally:
        store.close()


def statuses(project: Project, run_id: str) -> Dict[str, str]:
    query = (
        "SELECT attribute_key, attribute_value FROM db_log WHERE run_id = ? AND attribute_type IN ('Step', 'Branch')"
    )
    return {name: json.loads(value)["status"] for name, value in rows(project, query, run_id)}


def without_times(log: RunLog) -> Any:
    """Return a run log as a dict without the values that differ between runs. The order of steps is kept."""
    dump = log.model_dump(exclude={"run_config"})
    return json.loads(re.sub(r'"(start_time|end_time|duration)": "[^"]*"', r'"\1": ""', json.dumps(dump)))


def test_every_node_type_matches_file_system_store(project: Project) -> None:
    project.write(
        functions_py=FUNCTIONS,
        pipeline_yaml={"dag": EVERY_NODE_TYPE},
        sub_yaml={"dag": dag(inside={"type": "stub"}, again=parallel(one=dag(wait={"type": "stub"})))},
        parameters_yaml={"rows": 2, "given": "at the start"},
    )
    for store in ("db", "file-system"):
        project.write(config_yaml={"run_log_store": {"type": store}})
        project.execute("run", "-p", "parameters.yaml", "--tag", "nightly")
        shutil.rmtree(str(project.folder / ".catalog"))

    from_database = run_log(project, "run")
    from_files = FileSystemRunLogstore(log_folder=str(project.folder / ".run_log_store")).get_run_log_by_id("run")
    assert without_times(from_database) == without_times(from_files)
    assert list(from_database.steps) == ["load", "shell", "stub", "split", "sub", "each", "success"]
    assert from_database.parameters == {"rows": 4, "given": "at the start", "files": ["jan", "feb"], "from_shell": 7}
    assert [each.name for each in from_database.steps["load"].data_catalog] == ["load.execution.log", "rows.csv"]

    assert set(statuses(project, "run").values()) == {"SUCCESS"}
    counts = dict(rows(project, "SELECT attribute_type, COUNT(*) FROM db_log GROUP BY attribute_type"))
    assert counts == {
        "RunLog": 1,
        "Heartbeat": 1,
        "Environment": 1,
        "Parameter": 4,
        **steps_and_branches(from_files.steps),
    }


def steps_and_branches(steps: Dict[str, StepLog]) -> "Counter[str]":
    count = Counter(Step=len(steps))
    for step in steps.values():
        for branch in step.branches.values():
            count += Counter(Branch=1) + steps_and_branches(branch.steps)
    return count


def test_failed_steps_and_recovery(project: Project) -> None:
    project.write(
        functions_py=FUNCTIONS,
        config_yaml=DB,
        pipeline_yaml={
            "dag": {
                "start_at": "outer",
                "steps": {
                    "outer": {
                        **parallel(good=dag(stub={"type": "stub"}), bad=dag(broken=python("broken"))),
                        "next": "success",
                        "on_failure": "recover",
                    },
                    "recover": {"type": "stub", "next": "broken"},
                    "broken": {**python("broken"), "next": "success"},
                    **END,
                },
            }
        },
    )
    project.execute("run", fails=True)
    assert statuses(project, "run") == {
        "outer": "FAIL",
        "outer.good": "SUCCESS",
        "outer.good.stub": "SUCCESS",
        "outer.good.success": "SUCCESS",
        "outer.bad": "FAIL",
        "outer.bad.broken": "FAIL",
        "outer.bad.fail": "SUCCESS",
        "recover": "SUCCESS",
        "broken": "FAIL",
        "fail": "SUCCESS",
    }
    log = run_log(project, "run")
    assert log.status == "FAIL"
    assert [attempt.message for attempt in log.steps["broken"].attempts] == ["failed on purpose"]


def test_map_over_any_values(project: Project) -> None:
    files = ["jan.csv", "1.5", "a.b.c", "a", "in/out"]
    project.write(
        functions_py=FUNCTIONS,
        config_yaml=DB,
        parameters_yaml={"files": files},
        pipeline_yaml={
            "dag": dag(
                each=mapped(
                    "files",
                    dag(
                        wait={"type": "stub"},
                        deeper=parallel(only=dag(inner=mapped("files", dag(last={"type": "stub"}), "again"))),
                    ),
                )
            )
        },
    )
    project.execute("run", "-p", "parameters.yaml")
    log = run_log(project, "run")
    assert list(log.steps["each"].branches) == [f"each.{file}" for file in files]
    for outer, branch in log.steps["each"].branches.items():
        assert list(branch.steps) == [f"{outer}.{name}" for name in ("wait", "deeper", "success")]
        inner = branch.steps[f"{outer}.deeper"].branches[f"{outer}.deeper.only"].steps[f"{outer}.deeper.only.inner"]
        assert list(inner.branches) == [f"{inner.internal_name}.{file}" for file in files]
        for name, leaf in inner.branches.items():
            assert list(leaf.steps) == [f"{name}.last", f"{name}.success"]
            assert leaf.status == "SUCCESS"


def test_failed_run_restarts_at_failed_step(project: Project) -> None:
    project.write(
        functions_py=FUNCTIONS,
        config_yaml=DB,
        parameters_yaml={"rows": 2, "given": "at the start"},
        pipeline_yaml={"dag": dag(load=python("load"), fix=python("fail_unless_fixed"), check=python("check"))},
    )
    project.execute("old", "-p", "parameters.yaml", fails=True)
    assert statuses(project, "old") == {"load": "SUCCESS", "fix": "FAIL", "fail": "SUCCESS"}

    (project.folder / "fixed").touch()
    project.execute("new", "--use-cached", "old")
    new = run_log(project, "new")
    assert statuses(project, "new") == dict.fromkeys(("load", "fix", "check", "success"), "SUCCESS")
    assert {name: (log.mock, len(log.attempts)) for name, log in new.steps.items() if name != "success"} == {
        "load": (True, 0),
        "fix": (False, 1),
        "check": (False, 1),
    }
    assert (new.use_cached, new.original_run_id) == (True, "old")
    assert new.parameters == {"rows": 3, "given": "at the start", "files": ["jan", "feb"]}
    assert run_log(project, "old").status == "FAIL"


def test_commands_keep_the_original_of_a_rerun(project: Project) -> None:
    project.write(
        functions_py=FUNCTIONS,
        config_yaml=DB,
        parameters_yaml={"rows": 2, "given": "at the start"},
        pipeline_yaml={"dag": dag(load=python("load"), fix=python("fail_unless_fixed"))},
    )
    project.execute("old", "-p", "parameters.yaml", fails=True)
    (project.folder / "fixed").touch()
    project.execute("new", "--use-cached", "old")

    def db(*arguments: str, fails: bool = False) -> str:
        return project.magnus("db", *arguments, "-c", "config.yaml", fails=fails)

    pruned = db("prune", "--keep", "0", "--where", "status=FAIL", "--yes")
    assert "old is kept, because re-runs reuse its steps: new" in pruned
    assert "new would lose what old has logged" in db("delete", "old", "--yes", fails=True)
    copied = db("copy", "new", "--to", "sqlite:///copy.db", "--verify")
    assert "old: taken along, because 'new' reuses its steps" in copied and "2 of 2 runs agree" in copied
    db("delete", "old", "--yes", "--force")
    assert "new: its original run old is gone" in db("check")


def test_duplicate_run_id_fails(project: Project) -> None:
    project.write(config_yaml=DB, pipeline_yaml={"dag": dag(stub={"type": "stub"})})
    project.execute("run")
    before = rows(project, "SELECT * FROM db_log")
    assert "Choose an id with --run-id" in project.execute("run", fails=True)
    assert rows(project, "SELECT * FROM db_log") == before


def test_notebook_step(project: Project) -> None:
    pytest.importorskip("ploomber_engine", reason="needs magnus' extra: pip install 'magnus[notebook]'")
    project.environment["PLOOMBER_STATS_ENABLED"] = "false"
    cell = {"cell_type": "code", "execution_count": None, "outputs": [], "id": "x"}
    project.write(
        config_yaml=DB,
        parameters_yaml={"rows": 2},
        pipeline_yaml={"dag": dag(count={"type": "task", "command_type": "notebook", "command": "count.ipynb"})},
        count_ipynb={
            "cells": [
                {**cell, "metadata": {"tags": ["parameters"]}, "source": "rows = None"},
                {**cell, "metadata": {"tags": ["magnus_output"]}, "source": "print({'counted': rows + 1})", "id": "y"},
            ],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        },
    )
    project.execute("run", "-p", "parameters.yaml")
    log = run_log(project, "run")
    assert log.parameters == {"rows": 2, "counted": 3}
    assert [each.name for each in log.steps["count"].data_catalog] == ["count.execution.log", "count_out.ipynb"]


def test_execute_function(project: Project) -> None:
    """This calls the entry point of `magnus execute_function`. The command itself fails: see the next test."""
    project.write(
        functions_py=FUNCTIONS,
        config_yaml=DB,
        parameters_yaml={"rows": 2},
        job_py="""
from magnus import entrypoints

entrypoints.execute_function(
    entrypoint="user", command="functions.load", catalog_config={"put": ["rows.csv"]},
    configuration_file="config.yaml", parameters_file="parameters.yaml", run_id="run", tag="t",
)
""",
    )
    project.python("job.py")
    log = run_log(project, "run")
    assert (log.status, log.parameters["rows"]) == ("SUCCESS", 3)
    assert [step.status for step in log.steps.values()] == ["SUCCESS"]


@pytest.mark.parametrize("store", ["db", "file-system"])
def test_execute_function_command_fails_with_any_store(project: Project, store: str) -> None:
    """magnus 0.5.1 passes the catalog setting compute_data_folder to its task, which rejects it."""
    project.write(functions_py=FUNCTIONS, config_yaml={"run_log_store": {"type": store}})
    output = project.magnus("execute_function", "functions.load", "-c", "config.yaml", "--tag", "t", fails=True)
    assert "catalog.compute_data_folder" in output
    assert not (project.folder / ".run_log_store").exists()


def test_sdk_returns_run_log_with_parameters(project: Project) -> None:
    project.write(
        functions_py=FUNCTIONS,
        config_yaml=DB,
        parameters_yaml={"rows": 2, "given": "at the start"},
        sdk_py="""
from magnus import Parallel, Pipeline, Stub, Task

def branch():
    return Pipeline(steps=[Stub(name="wait", terminate_with_success=True)], start_at=Stub(name="wait", next="success"))

load = Task(name="load", command="functions.load")
split = Parallel(name="split", branches={"left": branch(), "right": branch()}, terminate_with_success=True)
load >> split
pipeline = Pipeline(steps=[load, split], start_at=load)
run_log = pipeline.execute(configuration_file="config.yaml", run_id="run", parameters_file="parameters.yaml")
assert run_log.status == "SUCCESS"
assert run_log.parameters == {"rows": 3, "given": "at the start", "files": ["jan", "feb"]}, run_log.parameters
""",
    )
    project.python("sdk.py")
    assert list(run_log(project, "run").steps["split"].branches) == ["split.left", "split.right"]


# Concurrent pipelines


def test_twenty_pipelines_share_one_database(project: Project, database: Any, store: DBStore) -> None:
    projects = [Project(project.folder / f"run-{number}") for number in range(20)]
    for each in projects:
        each.folder.mkdir()
        each.write(
            functions_py=FUNCTIONS,
            config_yaml={"run_log_store": {"type": "db", "config": {"connection_string": database.url}}},
            parameters_yaml={"rows": 2, "files": ["jan.csv", "feb"]},
            pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("work"))), last={"type": "stub"})},
        )

    def execute(project: Project) -> Tuple[int, str]:
        files = ["-f", "pipeline.yaml", "-c", "config.yaml", "-p", "parameters.yaml"]
        command = ["magnus", "execute", *files, "--run-id", project.folder.name]
        return run_magnus_in_forked_process(command, project.folder, project.environment)

    with ThreadPoolExecutor(max_workers=len(projects)) as pool:
        outcomes = list(pool.map(execute, projects))
    failed = [output for exit_code, output in outcomes if exit_code]
    assert not failed, failed[0]

    logs = [without_times(store.get_run_log_by_id(each.folder.name, full=True)) for each in projects]
    assert {step["status"] for log in logs for step in log["steps"].values()} == {"SUCCESS"}
    distinct_logs = {json.dumps(log).replace(log["run_id"], "run") for log in logs}
    assert len(distinct_logs) == 1
    without_heartbeats = "SELECT run_id, COUNT(*) FROM db_log WHERE attribute_type <> 'Heartbeat' GROUP BY run_id"
    row_counts = dict(database.sql(without_heartbeats))
    assert row_counts == {each.folder.name: 13 for each in projects}


@pytest.mark.parametrize("repetition", range(4))
def test_parallel_processes_lose_nothing(project: Project, repetition: int) -> None:
    """With `enable_parallel`, magnus 0.5.1 itself raises a TypeError after the branches are done."""
    files = [f"{month}.csv" for month in ("jan", "feb", "mar", "apr", "may")]
    project.write(
        functions_py=FUNCTIONS,
        config_yaml={**DB, "executor": {"type": "local", "config": {"enable_parallel": True}}},
        parameters_yaml={"files": files},
        pipeline_yaml={
            "dag": dag(
                each=mapped("files", dag(work=python("work"), after={"type": "stub"})),
            )
        },
    )
    assert "multiple values for keyword argument 'map_variable'" in project.execute(
        "mapped", "-p", "parameters.yaml", fails=True
    )
    branches = run_log(project, "mapped").steps["each"].branches
    assert list(branches) == [f"each.{file}" for file in files]
    for name, branch in branches.items():
        assert branch.status == "SUCCESS"
        assert [(each, log.status) for each, log in branch.steps.items()] == [
            (f"{name}.{node}", "SUCCESS") for node in ("work", "after", "success")
        ]
        work = branch.steps[f"{name}.work"]
        assert work.user_defined_metrics == {"size": len(name) - len("each.")}
        assert [attempt.status for attempt in work.attempts] == ["SUCCESS"]

    project.write(
        pipeline_yaml={
            "dag": dag(split=parallel(**{name: dag(a={"type": "stub"}, b={"type": "stub"}) for name in "vwxyz"}))
        }
    )
    project.execute("split", fails=True)
    branches = run_log(project, "split").steps["split"].branches
    assert {
        name: (branch.status, [log.status for log in branch.steps.values()]) for name, branch in branches.items()
    } == {f"split.{name}": ("SUCCESS", ["SUCCESS"] * 3) for name in "vwxyz"}

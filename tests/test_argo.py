"""Test the Argo workflows that magnus renders. Each task runs as a process and writes to the database."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import argo
import documents
import pytest
from conftest import Project, database_for
from magnus.datastore import RunLog, StepLog
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore
from ruamel.yaml import YAML
from servers import PASSWORD, Database
from test_pipelines import dag, mapped, parallel, python

from magnus_peewee_store import DBStore

FUNCTIONS = """
import os, threading
from pathlib import Path
from magnus import track_this
from pydantic import BaseModel, create_model

class Loaded(BaseModel):
    rows: int
    days: list

def load(rows: int):
    return Loaded(rows=rows + 1, days=[1, 2])

def measure(month: str, day: str = "none"):
    track_this(day=day)
    os.environ[f"MAGNUS_PRM_{month}_{day}"] = "1"

def left():
    os.environ["MAGNUS_PRM_left"] = "1"

def right():
    os.environ["MAGNUS_PRM_right"] = "1"

def refuse(month: str):
    assert month != "feb", "refused on purpose"

def meet(own: str, meeting: str):
    Path(meeting, own).touch()
    for _ in range(6000):
        if Path(meeting, "one").exists() and Path(meeting, "other").exists():
            return
        threading.Event().wait(0.01)
    raise TimeoutError(own)

def change_one(one: int, meeting: str):
    meet("one", meeting)
    return create_model("Changed", one=(int, one + 1))()

def change_other(other: int, meeting: str):
    meet("other", meeting)
    return create_model("Changed", other=(int, other + 1))()
"""


def wait() -> Dict[str, Any]:
    return dag(wait={"type": "stub"})


# Each branch sets different parameters.
PIPELINES = {
    "map": dag(load=python("load"), each=mapped("months", dag(measure=python("measure")), "month")),
    "parallel": dag(
        load=python("load"),
        split=parallel(left=dag(left=python("left")), right=dag(right=python("right")), third=wait()),
    ),
    "nested": dag(
        load=python("load"),
        each=mapped(
            "months",
            dag(
                measure=python("measure"),
                deeper=mapped("days", dag(measure=python("measure")), "day"),
                split=parallel(left=wait(), right=wait()),
            ),
            "month",
        ),
    ),
}
# How often parallel pods change parameters: twice by default. The full number is 100, by PARALLEL_REPEAT=20.
REPEAT = 5 * int(os.environ.get("PARALLEL_REPEAT", "0")) or 2
SERVER_SCHEMES = {"postgresql": "postgresql+psycopg2", "mariadb": "mysql+pymysql"}
POD_COUNTS = {"map": 1 + (2 + 2 * 2) + 1, "parallel": 1 + (2 + 3 * 2) + 1, "nested": 1 + 2 + 2 * (1 + 6 + 6 + 1) + 1}
CLUSTER_SECRETS = {"run-logs": {"password": PASSWORD}}


@pytest.fixture(params=SERVER_SCHEMES)
def server(
    request: pytest.FixtureRequest, tmp_path: Path, server_databases: Callable[[str], Database]
) -> Iterator[Database]:
    """Run the test on each server."""
    for database in database_for(SERVER_SCHEMES[request.param], tmp_path, server_databases):
        assert isinstance(database, Database)
        yield database


@pytest.fixture(scope="module", autouse=True)
def _pods() -> Iterator[None]:
    with argo.separate_output_files():
        yield


def config_for(database: Database) -> str:
    """Return the documented configuration with the address of this database."""
    config = documents.block({"postgresql": "argo-postgresql", "mysql": "argo-mariadb"}[database.server.dialect])
    actual = f"scott:${{password}}@127.0.0.1:{database.server.port}/{database.name}"
    port = {"postgresql": 5432, "mysql": 3306}[database.server.dialect]
    assert f"magnus:${{password}}@db.example.com:{port}/run_logs" in config
    return config.replace(f"magnus:${{password}}@db.example.com:{port}/run_logs", actual)


def render_workflow(project: Project, database: Database, pipeline: Dict[str, Any]) -> Any:
    project.write(
        functions_py=FUNCTIONS,
        pipeline_yaml={"dag": pipeline},
        parameters_yaml={"rows": 2, "months": ["jan", "feb"]},
        config_yaml=config_for(database),
    )
    project.magnus("execute", "-f", "pipeline.yaml", "-c", "config.yaml", "-p", "parameters.yaml", "--tag", "nightly")
    return YAML(typ="safe").load(project.folder / "argo-pipeline.yaml")


def read_run_log(database: Database, run_id: str) -> RunLog:
    store = DBStore(connection_string=database.url)
    try:
        return store.get_run_log_by_id(run_id, full=True)
    finally:
        store.close()


def comparable_steps(steps: Dict[str, StepLog]) -> Any:
    """Return the comparable values of steps: no times, code identities or catalogs."""
    return {
        name: (
            *(step.status, step.step_type, step.user_defined_metrics, [each.status for each in step.attempts]),
            {branch: (log.status, comparable_steps(log.steps)) for branch, log in step.branches.items()},
        )
        for name, step in steps.items()
    }


def run_with_file_system_store(project: Project) -> RunLog:
    """Run the same pipeline with the local executor and the file-system store of magnus. Return its run log."""
    project.write(local_yaml={"run_log_store": {"type": "file-system"}})
    project.magnus("execute", "-f", "pipeline.yaml", "-c", "local.yaml", "-p", "parameters.yaml", "--run-id", "local")
    return FileSystemRunLogstore(log_folder=str(project.folder / ".run_log_store")).get_run_log_by_id("local")


def assert_matches(log: RunLog, oracle: RunLog) -> None:
    assert log.status == "SUCCESS"
    assert log.parameters == oracle.parameters
    assert list(log.steps) == list(oracle.steps)
    assert comparable_steps(log.steps) == comparable_steps(oracle.steps)


def failures(workflow: argo.Workflow) -> str:
    return "\n".join(f"{pod.command}: {pod.output[-3000:]}" for pod in workflow.pods if pod.exit_code)


def test_workflow_writes_the_complete_run_log(project: Project, server: Database) -> None:
    manifest = render_workflow(project, server, PIPELINES["map"])
    workflow = argo.Workflow(manifest, project.folder, CLUSTER_SECRETS, "the-uid", argo.run_in_process)
    assert workflow.run() == argo.SUCCEEDED, failures(workflow)
    assert len(workflow.pods) == POD_COUNTS["map"]
    assert PASSWORD not in "".join(pod.output for pod in workflow.pods)
    assert_matches(read_run_log(server, "the-uid"), run_with_file_system_store(project))


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_concurrent_workflows_lose_nothing(project: Project, server: Database, pipeline: str) -> None:
    manifest = render_workflow(project, server, PIPELINES[pipeline])
    workflows = {uid: argo.Workflow(manifest, project.folder, CLUSTER_SECRETS, uid) for uid in ("one", "other")}
    with ThreadPoolExecutor(max_workers=len(workflows)) as pool:
        phases = list(pool.map(argo.Workflow.run, workflows.values()))
    assert set(phases) == {argo.SUCCEEDED}, "".join(failures(workflow) for workflow in workflows.values())
    oracle = run_with_file_system_store(project)
    for uid, workflow in workflows.items():
        assert len(workflow.pods) == POD_COUNTS[pipeline]
        assert_matches(read_run_log(server, uid), oracle)


def test_parallel_pods_change_other_parameters(project: Project, server: Database) -> None:
    """Both have read all parameters before either writes, since magnus reads them before it calls the function."""
    split = parallel(left=dag(change=python("change_one")), right=dag(alter=python("change_other")))
    manifest = render_workflow(project, server, dag(split=split))
    for number in range(REPEAT):
        meeting = project.folder / f"meeting {number}"
        meeting.mkdir()
        project.write(parameters_yaml={"one": 0, "other": 0, "meeting": str(meeting)})
        uid = f"run {number}"
        workflow = argo.Workflow(manifest, project.folder, CLUSTER_SECRETS, uid)
        assert workflow.run() == argo.SUCCEEDED, failures(workflow)
        assert read_run_log(server, uid).parameters == {"one": 1, "other": 1, "meeting": str(meeting)}


def test_failed_branch_fails_its_step_and_the_workflow(project: Project, server: Database) -> None:
    pipeline = dag(each=mapped("months", dag(refuse=python("refuse")), "month"))
    workflow = argo.Workflow(render_workflow(project, server, pipeline), project.folder, CLUSTER_SECRETS, "the-uid")
    assert workflow.run() == argo.FAILED
    each = read_run_log(server, "the-uid").steps["each"]
    branch_statuses = {name: branch.steps[f"{name}.refuse"].status for name, branch in each.branches.items()}
    assert (each.status, branch_statuses) == ("FAIL", {"each.jan": "SUCCESS", "each.feb": "FAIL"})

"""The store with each of magnus' executors: what is found, what is refused and how, and what the others make of it."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest
from conftest import Project
from magnus import context, integration
from magnus.extensions.catalog.file_system.implementation import FileSystemCatalog
from magnus.extensions.executor.argo.implementation import ArgoExecutor
from magnus.extensions.executor.local.implementation import LocalExecutor
from magnus.extensions.executor.local_container.implementation import LocalContainerExecutor
from magnus.extensions.executor.mocked.implementation import MockedExecutor
from magnus.secrets import BaseSecrets
from test_pipelines import dag, mapped, run_log

from magnus_peewee_store import DBStore, integrations
from magnus_peewee_store import ConnectionStringError

EXECUTORS = {
    "local": LocalExecutor(),
    "mocked": MockedExecutor(),
    "local-container": LocalContainerExecutor(docker_image="nobody's"),
    "argo": ArgoExecutor(image="nobody's"),
}
CONTAINER = {"type": "local-container", "config": {"docker_image": "nobody's"}}
ARGO = {"type": "argo", "config": {"image": "nobody's"}}
PIPELINE = {"dag": dag(one={"type": "stub"}, two={"type": "stub"}, three={"type": "stub"})}
FILE, MEMORY, SERVER = "sqlite:///runs.db", "sqlite:///:memory:", "postgresql://scott:tiger@h/db"


def write(project: Project, executor: Any, connection_string: str = "", **more: Any) -> None:
    store = {"config": {"connection_string": connection_string}} if connection_string else {}
    project.write(
        pipeline_yaml=PIPELINE, config_yaml={"executor": executor, "run_log_store": {"type": "db", **store}, **more}
    )


def refused(project: Project, reason: str) -> None:
    """Check that a run is refused with a reason, and leaves nothing behind."""
    before = sorted(os.listdir(project.folder))
    output = project.execute("run", fails=True)
    assert "ConnectionStringError" in output and reason in output
    assert sorted(os.listdir(project.folder)) == before


class Unasked(BaseSecrets):
    """Fails whoever asks it."""

    def get(self, name: str, **kwargs: Any) -> str:
        raise AssertionError(f"asked for {name}")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """What magnus and the store say in the log, whose logger hands nothing on."""
    messages: List[str] = []
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", lambda record: messages.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("magnus"), "handlers", [listener])
    return messages


@pytest.fixture
def _no_secrets_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "run_context", SimpleNamespace(secrets_handler=Unasked()))


@pytest.mark.parametrize("name", EXECUTORS)
def test_magnus_finds_one_integration_for_each_executor_of_its_own(name: str, said: List[str]) -> None:
    handler = integration.get_integration_handler(EXECUTORS[name], DBStore())
    assert type(handler).__module__ == integrations.__name__ and handler.executor_type == name
    assert said == []


def test_magnus_finds_it_in_a_process_that_has_imported_nothing_of_it(project: Project) -> None:
    write(project, {"type": "local"})
    assert "integration pattern for local and db" not in project.execute("run")


@pytest.mark.parametrize(
    ("name", "connection_string"),
    [
        *(("local", each) for each in [FILE, MEMORY, SERVER]),
        *(("mocked", each) for each in [FILE, MEMORY, SERVER]),
        *(("local-container", each) for each in [FILE, SERVER]),
        ("argo", SERVER),
    ],
)
def test_what_an_executor_takes_it_takes_without_a_word(name: str, connection_string: str, said: List[str]) -> None:
    store = DBStore(connection_string=connection_string)
    integration.validate(EXECUTORS[name], store)
    integration.configure_for_traversal(EXECUTORS[name], store)
    assert said == []


@pytest.mark.parametrize("name", ["local", "mocked"])
def test_enable_parallel_is_warned_of_once_before_anything_runs(project: Project, name: str) -> None:
    write(project, {"type": name, "config": {"enable_parallel": True}})
    said = "enable_parallel: magnus 0.5.1 fails"
    output = project.execute("run")
    assert output.count(said) == 1
    assert output.index(said) < output.index('"run_id": "run"')
    write(project, {"type": name})
    assert said not in project.execute("again")


def test_enable_parallel_is_warned_of_with_containers_too(said: List[str]) -> None:
    executor = LocalContainerExecutor(docker_image="nobody's", enable_parallel=True)
    integration.configure_for_traversal(executor, DBStore())
    assert [message[:15] for message in said] == ["enable_parallel"]


def test_a_mocked_run_is_kept(project: Project) -> None:
    write(project, {"type": "mocked"})
    project.write(
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work={"type": "task", "command": "no.where"})))},
        parameters_yaml={"files": ["jan.csv"]},
    )
    project.execute("run", "-p", "parameters.yaml")
    log = run_log(project, "run")
    work = log.steps["each"].branches["each.jan.csv"].steps["each.jan.csv.work"]
    assert (log.status, work.status, work.mock) == ("SUCCESS", "SUCCESS", True)


def test_an_executor_that_nobody_knows_is_let_through(project: Project) -> None:
    plugin = project.folder / "site" / "cluster-1.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: cluster\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[executor]\ncluster = cluster:Cluster\n")
    (project.folder / "site" / "cluster.py").write_text(
        "from magnus.extensions.executor.local.implementation import LocalExecutor\n"
        "class Cluster(LocalExecutor):\n    service_name: str = 'cluster'\n"
    )
    project.environment["PYTHONPATH"] = str(project.folder / "site")
    write(project, {"type": "cluster"})
    project.execute("run")
    log = run_log(project, "run")
    assert log.status == "SUCCESS" and log.run_config["executor"]["service_name"] == "cluster"


@pytest.mark.parametrize("connection_string", ["", FILE, MEMORY])
def test_argo_refuses_sqlite_before_it_writes_anything(project: Project, connection_string: str) -> None:
    write(project, ARGO, connection_string)
    refused(project, "SQLite, which the pods of an Argo workflow do not share")


@pytest.mark.parametrize("handler", ["dotenv", "env-secrets-manager"])
def test_argo_refuses_sqlite_that_is_a_secret(project: Project, handler: str) -> None:
    project.environment["dsn"] = "sqlite:///runs.db"
    project.write(_env="dsn=sqlite:///runs.db\n")
    write(project, ARGO, "${dsn}", secrets={"type": handler})
    refused(project, "SQLite, which the pods of an Argo workflow do not share")


def test_argo_refuses_sqlite_in_the_first_pod_if_the_secret_is_only_there(project: Project) -> None:
    write(project, ARGO, "${dsn}", secrets={"type": "env-secrets-manager"})
    project.execute("run")
    assert (project.folder / "argo-pipeline.yaml").exists()
    project.environment["dsn"] = "sqlite:///runs.db"
    output = project.magnus("execute_single_node", "run", "one", "-f", "pipeline.yaml", "-c", "config.yaml", fails=True)
    assert "SQLite, which the pods of an Argo workflow do not share" in output
    assert not (project.folder / "runs.db").exists()


@pytest.mark.usefixtures("_no_secrets_yet")
@pytest.mark.parametrize(
    "connection_string", ["postgresql://scott:${password}@h/db", "mysql://${user}:tiger@${host}:${port}/db"]
)
def test_argo_takes_a_server_without_a_word_and_without_its_secrets(connection_string: str, said: List[str]) -> None:
    store = DBStore(connection_string=connection_string)
    integration.validate(EXECUTORS["argo"], store)
    integration.configure_for_traversal(EXECUTORS["argo"], store)
    assert said == []


@pytest.mark.parametrize("handler", ["dotenv", "env-secrets-manager"])
@pytest.mark.parametrize("connection_string", ["postgresql://scott:${password}@h/db", "${dsn}"])
def test_the_workflow_holds_no_secret(project: Project, handler: str, connection_string: str) -> None:
    secrets = {"password": "krakenbait", "dsn": "postgresql://scott:krakenbait@h/db"}
    project.environment.update(secrets)
    project.write(_env="".join(f"{name}={value}\n" for name, value in secrets.items()))
    write(project, ARGO, connection_string, secrets={"type": handler})
    output = project.execute("run", "--log-level", "DEBUG")
    assert "krakenbait" not in output
    assert "krakenbait" not in (project.folder / "argo-pipeline.yaml").read_text()


def test_the_workflow_holds_no_password_that_stands_in_the_configuration(project: Project) -> None:
    write(project, ARGO, "postgresql://scott:krakenbait@h/db")
    assert "krakenbait" not in project.execute("run")
    assert "krakenbait" not in (project.folder / "argo-pipeline.yaml").read_text()


@pytest.mark.parametrize("secrets", [{}, {"secrets": {"type": "dotenv"}}])
def test_containers_refuse_a_database_in_memory(project: Project, secrets: Any) -> None:
    project.write(_env="file=:memory:\n")
    write(project, CONTAINER, "sqlite:///${file}" if secrets else MEMORY, **secrets)
    refused(project, "in memory, where a container does not see it")


@pytest.mark.parametrize("executor", [CONTAINER, ARGO])
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"conection_string": "postgresql://scott:krakenbait@h/db"}, "'conection_string': Extra inputs"),
        ({"connection_string": "postgres//scott:krakenbait@h/db"}, "begins with none of"),
        ({"connection_string": "postgresql://scott:kraken/bait@h/db"}, "is not of the form"),
    ],
)
def test_a_mistake_in_the_configuration_is_told_before_anything_runs(
    project: Project, executor: Any, config: Dict[str, str], reason: str
) -> None:
    write(project, executor, run_log_store={"type": "db", "config": config})
    refused(project, reason)


def mounts(path: Path) -> Dict[str, Any]:
    executor = LocalContainerExecutor(docker_image="nobody's")
    integration.configure_for_traversal(executor, DBStore(connection_string=f"sqlite:///{path}"))
    return {str(Path(source)): volume["bind"] for source, volume in executor._volumes.items()}


def test_a_linked_folder_is_mounted_and_a_link_to_a_file_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "linked").symlink_to("disk")
    (tmp_path / "runs.db").symlink_to("disk/runs.db")
    expected = {str(tmp_path / "disk"): "/tmp/run_logs"}
    assert mounts(tmp_path / "linked" / "runs.db") == mounts(tmp_path / "runs.db") == expected


def test_a_file_that_containers_would_not_find_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.db").symlink_to("other.db")
    with pytest.raises(ConnectionStringError, match="a symbolic link to one of another name"):
        mounts(tmp_path / "runs.db")
    with pytest.raises(ConnectionStringError, match="a folder with a colon in its path"):
        mounts(tmp_path / "12:00" / "runs.db")


def test_the_catalog_may_be_in_the_same_folder(tmp_path: Path) -> None:
    executor = LocalContainerExecutor(docker_image="nobody's")
    integration.configure_for_traversal(executor, DBStore(connection_string=f"sqlite:///{tmp_path}/runs.db"))
    integration.configure_for_traversal(executor, FileSystemCatalog(catalog_location=str(tmp_path)))
    assert [volume["bind"] for volume in executor._volumes.values()] == ["/tmp/run_logs", "/tmp/catalog/"]


@pytest.mark.usefixtures("_no_secrets_yet")
def test_inside_a_container_no_secret_is_asked_for_before_its_handler_is_ready(tmp_path: Path) -> None:
    store = DBStore(connection_string="${dsn}")
    integration.validate(EXECUTORS["local-container"], store)
    integration.configure_for_execution(EXECUTORS["local-container"], store)

"""Test the store with each executor of magnus: supported, rejected and unknown configurations."""

import logging
import os
import re
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

from magnus_peewee_store import ConfigurationError, DBStore, integrations
from magnus_peewee_store.parallel.executor import LocalParallel

EXECUTORS = {
    "local": LocalExecutor(),
    "local-parallel": LocalParallel(),
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


def assert_rejected(project: Project, reason: str) -> None:
    """Check that a run fails with a reason and leaves no files behind."""
    before = sorted(os.listdir(project.folder))
    output = project.execute("run", fails=True)
    assert re.search("(Configuration|ConnectionString|ParallelExecution)Error", output) and reason in output
    assert sorted(os.listdir(project.folder)) == before


class FailingSecrets(BaseSecrets):
    """Raise an error for every secret."""

    def get(self, name: str, **kwargs: Any) -> str:
        raise AssertionError(f"The secret {name} was read.")


@pytest.fixture
def log_messages(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """Return the log messages of magnus and the store. The magnus logger does not propagate, so caplog is empty."""
    messages: List[str] = []
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", lambda record: messages.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("magnus"), "handlers", [listener])
    return messages


@pytest.fixture
def _failing_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "run_context", SimpleNamespace(secrets_handler=FailingSecrets()))


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_has_an_integration(name: str, log_messages: List[str]) -> None:
    handler = integration.get_integration_handler(EXECUTORS[name], DBStore())
    assert type(handler).__module__ == integrations.__name__ and handler.executor_type == name
    assert log_messages == []


def test_integration_is_found_by_entry_point(project: Project) -> None:
    write(project, {"type": "local"})
    assert "integration pattern for local and db" not in project.execute("run")


@pytest.mark.parametrize(
    ("name", "connection_string"),
    [
        *(("local", each) for each in [FILE, MEMORY, SERVER]),
        *(("mocked", each) for each in [FILE, MEMORY, SERVER]),
        *(("local-parallel", each) for each in [FILE, SERVER]),
        *(("local-container", each) for each in [FILE, SERVER]),
        ("argo", SERVER),
    ],
)
def test_supported_databases_log_nothing(name: str, connection_string: str, log_messages: List[str]) -> None:
    store = DBStore(connection_string=connection_string)
    integration.validate(EXECUTORS[name], store)
    integration.configure_for_traversal(EXECUTORS[name], store)
    assert log_messages == []


@pytest.mark.parametrize("name", ["local", "mocked"])
def test_enable_parallel_logs_one_warning_before_the_run(project: Project, name: str) -> None:
    write(project, {"type": name, "config": {"enable_parallel": True}})
    warning = "enable_parallel: magnus 0.5.1 fails"
    output = project.execute("run")
    assert output.count(warning) == 1
    assert output.index(warning) < output.index('"run_id": "run"')
    assert "use the executor 'local-parallel'" in " ".join(output.split())
    write(project, {"type": name})
    assert warning not in project.execute("again")


def test_enable_parallel_logs_a_warning_for_containers(log_messages: List[str]) -> None:
    executor = LocalContainerExecutor(docker_image="nobody's", enable_parallel=True)
    integration.configure_for_traversal(executor, DBStore())
    assert [message[:15] for message in log_messages] == ["enable_parallel"]


def test_mocked_run_is_stored(project: Project) -> None:
    write(project, {"type": "mocked"})
    project.write(
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work={"type": "task", "command": "no.where"})))},
        parameters_yaml={"files": ["jan.csv"]},
    )
    project.execute("run", "-p", "parameters.yaml")
    log = run_log(project, "run")
    work = log.steps["each"].branches["each.jan.csv"].steps["each.jan.csv.work"]
    assert (log.status, work.status, work.mock) == ("SUCCESS", "SUCCESS", True)


def test_unknown_executor_is_accepted(project: Project) -> None:
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
def test_argo_rejects_sqlite_before_writing_files(project: Project, connection_string: str) -> None:
    write(project, ARGO, connection_string)
    assert_rejected(project, "SQLite, which the pods of an Argo workflow cannot share")


@pytest.mark.parametrize("handler", ["dotenv", "env-secrets-manager"])
def test_argo_rejects_sqlite_from_a_secret(project: Project, handler: str) -> None:
    project.environment["dsn"] = "sqlite:///runs.db"
    project.write(_env="dsn=sqlite:///runs.db\n")
    write(project, ARGO, "${dsn}", secrets={"type": handler})
    assert_rejected(project, "SQLite, which the pods of an Argo workflow cannot share")


def test_argo_rejects_sqlite_in_the_first_pod(project: Project) -> None:
    write(project, ARGO, "${dsn}", secrets={"type": "env-secrets-manager"})
    project.execute("run")
    assert (project.folder / "argo-pipeline.yaml").exists()
    project.environment["dsn"] = "sqlite:///runs.db"
    output = project.magnus("execute_single_node", "run", "one", "-f", "pipeline.yaml", "-c", "config.yaml", fails=True)
    assert "SQLite, which the pods of an Argo workflow cannot share" in output
    assert not (project.folder / "runs.db").exists()


@pytest.mark.usefixtures("_failing_secrets")
@pytest.mark.parametrize(
    "connection_string", ["postgresql://scott:${password}@h/db", "mysql://${user}:tiger@${host}:${port}/db"]
)
def test_argo_accepts_a_server_without_reading_secrets(connection_string: str, log_messages: List[str]) -> None:
    store = DBStore(connection_string=connection_string)
    integration.validate(EXECUTORS["argo"], store)
    integration.configure_for_traversal(EXECUTORS["argo"], store)
    assert log_messages == []


@pytest.mark.parametrize("handler", ["dotenv", "env-secrets-manager"])
@pytest.mark.parametrize("connection_string", ["postgresql://scott:${password}@h/db", "${dsn}"])
def test_argo_workflow_contains_no_secret(project: Project, handler: str, connection_string: str) -> None:
    secrets = {"password": "krakenbait", "dsn": "postgresql://scott:krakenbait@h/db"}
    project.environment.update(secrets)
    project.write(_env="".join(f"{name}={value}\n" for name, value in secrets.items()))
    write(project, ARGO, connection_string, secrets={"type": handler})
    output = project.execute("run", "--log-level", "DEBUG")
    assert "krakenbait" not in output
    assert "krakenbait" not in (project.folder / "argo-pipeline.yaml").read_text()


def test_argo_workflow_contains_no_password_of_the_configuration(project: Project) -> None:
    write(project, ARGO, "postgresql://scott:krakenbait@h/db")
    assert "krakenbait" not in project.execute("run")
    assert "krakenbait" not in (project.folder / "argo-pipeline.yaml").read_text()


@pytest.mark.parametrize("secrets", [{}, {"secrets": {"type": "dotenv"}}])
def test_containers_reject_in_memory_databases(project: Project, secrets: Any) -> None:
    project.write(_env="file=:memory:\n")
    write(project, CONTAINER, "sqlite:///${file}" if secrets else MEMORY, **secrets)
    assert_rejected(project, "in memory, where containers cannot see it")


@pytest.mark.parametrize("executor", [CONTAINER, ARGO])
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"conection_string": "postgresql://scott:krakenbait@h/db"}, "'conection_string': Extra inputs"),
        ({"connection_string": "postgres//scott:krakenbait@h/db"}, "does not begin with one of"),
        ({"connection_string": "postgresql://scott:kraken/bait@h/db"}, "does not have the form"),
    ],
)
def test_invalid_configuration_fails_before_the_run(
    project: Project, executor: Any, config: Dict[str, str], reason: str
) -> None:
    write(project, executor, run_log_store={"type": "db", "config": config})
    assert_rejected(project, reason)


def mounts(path: Path) -> Dict[str, Any]:
    executor = LocalContainerExecutor(docker_image="nobody's")
    integration.configure_for_traversal(executor, DBStore(connection_string=f"sqlite:///{path}"))
    return {str(Path(source)): volume["bind"] for source, volume in executor._volumes.items()}


def test_symlinks_are_resolved_for_mounts(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "linked").symlink_to("disk")
    (tmp_path / "runs.db").symlink_to("disk/runs.db")
    expected = {str(tmp_path / "disk"): "/tmp/run_logs"}
    assert mounts(tmp_path / "linked" / "runs.db") == mounts(tmp_path / "runs.db") == expected


def test_file_that_containers_cannot_find_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "runs.db").symlink_to("other.db")
    with pytest.raises(ConfigurationError, match="a symbolic link to a file with another name"):
        mounts(tmp_path / "runs.db")
    with pytest.raises(ConfigurationError, match="a folder with a colon in its path"):
        mounts(tmp_path / "12:00" / "runs.db")


def test_catalog_in_the_same_folder_is_mounted_too(tmp_path: Path) -> None:
    executor = LocalContainerExecutor(docker_image="nobody's")
    integration.configure_for_traversal(executor, DBStore(connection_string=f"sqlite:///{tmp_path}/runs.db"))
    integration.configure_for_traversal(executor, FileSystemCatalog(catalog_location=str(tmp_path)))
    assert [volume["bind"] for volume in executor._volumes.values()] == ["/tmp/run_logs", "/tmp/catalog/"]


@pytest.mark.usefixtures("_failing_secrets")
def test_no_secret_is_read_before_the_handler_is_ready(tmp_path: Path) -> None:
    store = DBStore(connection_string="${dsn}")
    integration.validate(EXECUTORS["local-container"], store)
    integration.configure_for_execution(EXECUTORS["local-container"], store)

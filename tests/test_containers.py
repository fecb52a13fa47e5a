"""Test steps in containers: they use the same database as the process that starts them."""

import shutil
from pathlib import Path
from typing import Any, Callable, Iterator

import documents
import pytest
from conftest import Project, database_for
from magnus.datastore import RunLog
from servers import PASSWORD, Database
from test_pipelines import dag, mapped, python

from magnus_peewee_store import DBStore

engines = pytest.importorskip("engines", reason="needs the extra 'test'")

FUNCTIONS = """
import os
from pathlib import Path
from magnus import track_this
from pydantic import BaseModel

class Loaded(BaseModel):
    rows: int

def files(folder: str):
    return sorted(file.name for file in Path(folder).glob("*"))

def load(rows: int, folder: str):
    track_this(mounted=files("/tmp/run_logs"), elsewhere=files(folder))
    return Loaded(rows=rows + 1)

def work(month: str):
    track_this(month=month)
"""
PIPELINE = dag(load=python("load"), each=mapped("months", dag(work=python("work")), "month"))
# podman rejects the mount point that magnus uses for its file-system catalog.
NO_CATALOG = "catalog: {type: do-nothing}\n"


@pytest.fixture(scope="module", params=["real_engine", "namespaces"])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the test with real containers and with processes in mount namespaces."""
    try:
        with getattr(engines, request.param)() as engine:
            yield engine
    except engines.MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def execute(
    project: Project, engine: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Path, str], RunLog]:
    """Return a function that runs a pipeline in containers with the project's files, and returns its run log."""

    def execute(config: str, folder: Path, url: str) -> RunLog:
        image = tmp_path_factory.mktemp("image")
        project.write(
            functions_py=FUNCTIONS,
            pipeline_yaml={"dag": PIPELINE},
            parameters_yaml={"rows": 2, "months": ["jan"], "folder": str(folder)},
            config_yaml=NO_CATALOG + config.replace("my-project:latest", engine.name(image)),
        )
        shutil.copytree(project.folder, image, dirs_exist_ok=True)
        engine.make(image)
        (project.folder / ".env").write_text(f"password={PASSWORD}\n")
        project.environment.update(engine.environment)
        output = project.execute("run", "-p", "parameters.yaml")
        assert PASSWORD not in output

        store = DBStore(connection_string=url)
        log = store.get_run_log_by_id("run", full=True)
        store.close()
        assert log.status == "SUCCESS"
        assert log.parameters["rows"] == 3
        work = log.steps["each"].branches["each.jan"].steps["each.jan.work"]
        assert (work.status, work.user_defined_metrics) == ("SUCCESS", {"month": "jan"})
        return log

    return execute


@pytest.mark.parametrize("location", ["default", "relative", "absolute"])
def test_containers_write_the_mounted_sqlite_file(
    project: Project,
    execute: Callable[[str, Path, str], RunLog],
    location: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = documents.block("local-container-sqlite")
    setting = "connection_string: sqlite:///run-logs/runs.db"
    assert setting in config
    if location == "default":
        config, path = (
            config.replace(f"  config:\n    {setting}\n", ""),
            project.folder / ".run_log_store" / "run_log.db",
        )
    elif location == "relative":
        path = project.folder / "run-logs" / "runs.db"
    else:
        path = tmp_path_factory.mktemp("some where") / "my runs.db"
        config = config.replace(setting, f"connection_string: 'sqlite:///{path}'")

    log = execute(config, path.parent, f"sqlite:///{path}")
    # The container sees the write-ahead log of the host at the mount point, and nothing at the host's path.
    metrics = log.steps["load"].user_defined_metrics
    assert metrics == {"mounted": [path.name, f"{path.name}-shm", f"{path.name}-wal"], "elsewhere": []}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("kind", "scheme", "port"), [("postgresql", "postgresql+psycopg2", 5432), ("mariadb", "mysql+pymysql", 3306)]
)
def test_containers_write_to_a_server_on_localhost(
    execute: Callable[[str, Path, str], RunLog],
    kind: str,
    scheme: str,
    port: int,
    tmp_path: Path,
    server_databases: Callable[[str], Database],
) -> None:
    for database in database_for(scheme, tmp_path, server_databases):
        assert isinstance(database, Database)
        names = {"postgresql": "local-container-postgresql", "mariadb": "local-container-mariadb"}
        config = documents.block(names[kind])
        documented = f"magnus:${{password}}@localhost:{port}/run_logs"
        assert documented in config
        actual = f"scott:${{password}}@localhost:{database.server.port}/{database.name}"
        execute(config.replace(documented, actual), tmp_path, database.url)

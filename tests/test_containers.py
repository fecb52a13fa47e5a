"""Steps in containers: the store inside finds the database that the store outside has."""

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
# podman refuses the place where magnus mounts its file-system catalog.
NO_CATALOG = "catalog: {type: do-nothing}\n"


@pytest.fixture(scope="module", params=["real_engine", "namespaces"])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Real containers, and processes in mount namespaces."""
    try:
        with getattr(engines, request.param)() as engine:
            yield engine
    except engines.MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def execute(
    project: Project, engine: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Path, str], RunLog]:
    """Run a pipeline by a configuration, in containers that have the project's files; give what a database then has."""

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


@pytest.mark.parametrize("place", ["default", "relative", "absolute"])
def test_containers_write_the_sqlite_file_whose_folder_is_mounted(
    project: Project, execute: Callable[[str, Path, str], RunLog], place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = documents.block("local-container-sqlite")
    named = "connection_string: sqlite:///run-logs/runs.db"
    assert named in config
    if place == "default":
        config, path = config.replace(f"  config:\n    {named}\n", ""), project.folder / ".run_log_store" / "run_log.db"
    elif place == "relative":
        path = project.folder / "run-logs" / "runs.db"
    else:
        path = tmp_path_factory.mktemp("some where") / "my runs.db"
        config = config.replace(named, f"connection_string: 'sqlite:///{path}'")

    log = execute(config, path.parent, f"sqlite:///{path}")
    # The write-ahead log as the store outside keeps it; and nothing where the host has it.
    seen = log.steps["load"].user_defined_metrics
    assert seen == {"mounted": [path.name, f"{path.name}-shm", f"{path.name}-wal"], "elsewhere": []}
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
        named = f"magnus:${{password}}@localhost:{port}/run_logs"
        assert named in config
        given = f"scott:${{password}}@localhost:{database.server.port}/{database.name}"
        execute(config.replace(named, given), tmp_path, database.url)

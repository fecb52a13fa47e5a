"""What the tests share: databases that really run, magnus' own stores as the oracle, and magnus' own command."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest
from magnus.datastore import BaseRunLogStore
from magnus.extensions.run_log_store.chunked_file_system.implementation import ChunkedFileSystemRunLogStore
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore

from magnus_peewee_store import DBStore

ORACLES = {"file-system": FileSystemRunLogstore, "chunked-fs": ChunkedFileSystemRunLogStore}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "oracle(*stores): magnus' own stores that the test holds for as well")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_store" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("oracle")
        metafunc.parametrize("any_store", ["db", *(marker.args if marker else ())], indirect=True)


class SqliteFile:
    """A database of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "runs.db"
        self.url = f"sqlite:///{self.path}"

    def sql(self, statement: str, *values: Any) -> List[Tuple[Any, ...]]:
        connection = sqlite3.connect(str(self.path), timeout=60)
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


@pytest.fixture
def database(tmp_path: Path) -> SqliteFile:
    return SqliteFile(tmp_path)


@pytest.fixture
def store(database: SqliteFile) -> Iterator[DBStore]:
    store = DBStore(connection_string=database.url)
    yield store
    store.close()


@pytest.fixture
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> BaseRunLogStore:
    """The store under test, and those of magnus' that the test names as its oracle."""
    if request.param in ORACLES:
        return ORACLES[request.param](log_folder=str(tmp_path))
    return request.getfixturevalue("store")


class Project:
    """A folder with a pipeline in it, as a user of magnus has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MAGNUS_", "COVERAGE_"))
        }
        self.environment["COLUMNS"] = "200"

    def write(self, **files: Any) -> None:
        """Write files: `pipeline_yaml=...` is pipeline.yaml. What is not text is written as JSON, which YAML reads."""
        for name, content in files.items():
            stem, _, ending = name.rpartition("_")
            text = content if isinstance(content, str) else json.dumps(content)
            (self.folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")

    def start(self, *command: str, **popen: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **popen,
        )

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command to its end, and give what it prints."""
        process = self.start(*command)
        output, _ = process.communicate(timeout=300)
        assert (process.returncode != 0) == fails, output[-5000:]
        return output

    def magnus(self, *arguments: str, fails: bool = False) -> str:
        return self.run("magnus", *arguments, fails=fails)

    def python(self, *arguments: str) -> str:
        return self.run("python", *arguments)

    def execute(self, run_id: str, *arguments: str, fails: bool = False) -> str:
        return self.magnus(
            "execute", "-f", "pipeline.yaml", "-c", "config.yaml", "--run-id", run_id, *arguments, fails=fails
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)

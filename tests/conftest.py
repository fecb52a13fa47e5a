"""Shared fixtures: databases, the stores of magnus as oracles, and projects that run the magnus command."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple, Type, Union

import pytest
from browser import IS_INSTALLED, Browser
from certificates import make_certificates
from concurrency import run_magnus_in_forked_process
from hypothesis import HealthCheck, settings
from magnus.datastore import BaseRunLogStore
from magnus.extensions.run_log_store.chunked_file_system.implementation import ChunkedFileSystemRunLogStore
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore
from servers import KIND_IN_TREE, Cluster, Database, Galera, Group, MariaDB, MySQL, PostgreSQL, Server, why_missing

from magnus_peewee_store import DBStore, open_store, runs
from magnus_peewee_store.runs.upkeep import CheckReport

# On a busy machine, an example may take long.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

ORACLES = {"file-system": FileSystemRunLogstore, "chunked-fs": ChunkedFileSystemRunLogStore}
# Schemes of connection strings, with the driver, and the kind of server for each.
SERVERS = {"postgresql+psycopg2": "postgresql", "postgresql+psycopg": "postgresql", "mysql+pymysql": "mariadb"}
DATABASES = ["sqlite", *SERVERS]
# Two drivers lead to PostgreSQL. These files depend on the driver; the others run on one of them.
SECOND_DRIVER = "postgresql+psycopg2"
TESTS_OF_DRIVERS = [f"test_{name}" for name in ("conformance", "connection", "faults", "interrupts", "secrets")]
if KIND_IN_TREE:  # TEST_SERVER_TREE is set: run on its server alone
    DIALECT = {"postgresql": "postgresql"}.get(KIND_IN_TREE, "mysql")
    SERVERS = {scheme: KIND_IN_TREE for scheme in SERVERS if scheme.startswith(DIALECT)}
    DATABASES = [*SERVERS]
# Clusters whose nodes all accept writes.
CLUSTERS: Dict[str, Type[Cluster]] = {"mysql_group": Group} if KIND_IN_TREE == "mysql" else {"galera": Galera}
# A third driver leads to MariaDB. Only tests of what depends on the driver run on it.
DRIVERS = dict(SERVERS)
if "mysql+pymysql" in SERVERS:
    DRIVERS["mysql+mysqlconnector"] = SERVERS["mysql+pymysql"]
SETTINGS = {
    "postgresql": {"max_connections": "200"},
    "mariadb": {"max_connections": "200", "max_allowed_packet": "64M"},
    "mysql": {"max_connections": "200", "max_allowed_packet": "64M"},
}

# The files that take longest, in the order in which they start when processes share the files (see tox.ini). If they
# started last, one process would work on the last of them alone.
LONGEST_FILES = [
    *("parallel", "documents", "argo", "containers", "liveness", "faults", "clusters", "processes", "cli"),
    *("histories", "legacy_tables", "vanished_hosts", "interrupts", "site"),
]


def pytest_configure(config: pytest.Config) -> None:
    # A shell makes background processes ignore SIGINT, and child processes inherit that. Some tests send SIGINT.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "oracle(*stores): also run the test with these stores of magnus")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_store" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("oracle")
        metafunc.parametrize("any_store", [*DATABASES, *(marker.args if marker else ())], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: List[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if not needs_its_driver(item)])
    items[:] = filter(needs_its_driver, items)
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


def needs_its_driver(item: Any) -> bool:
    """Return False for a test on SECOND_DRIVER that says nothing which the other driver's does not."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    databases = [parameters.get(name) for name in ("database", "any_store", "private_database")]
    return SECOND_DRIVER not in databases or (item.path.stem in TESTS_OF_DRIVERS and "project" not in item.fixturenames)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [text for report in reports for name, text in report.user_properties if name == "summary"]
    if lines:
        terminalreporter.section("histories")
        terminalreporter.write("\n".join([*sorted(lines), ""]))


def require(kind: str) -> None:
    """Skip the test if a kind of server is not installed; fail in CI."""
    missing = why_missing(kind)
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def new_server(kind: str, **settings: str) -> Server:
    """Start a server and return it. Skip the test if the server is not installed; fail in CI."""
    require(kind)
    server: Server = {"postgresql": PostgreSQL, "mariadb": MariaDB, "mysql": MySQL}[kind](**settings)
    try:
        server.start()
    except BaseException:
        server.remove()
        raise
    return server


class SqliteFile:
    """An SQLite database file for one test."""

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


AnyDatabase = Union[SqliteFile, Database]


@pytest.fixture(scope="session")
def server_databases() -> Iterator[Callable[[str], Database]]:
    """Return a function that returns one database per scheme. The servers run until the end of the session."""
    servers: Dict[str, Server] = {}
    databases: Dict[str, Database] = {}

    def database(scheme: str) -> Database:
        if scheme not in DRIVERS:
            pytest.skip(f"TEST_SERVER_TREE has no server for {scheme}")
        kind = DRIVERS[scheme]
        if kind not in servers:
            servers[kind] = new_server(kind, **SETTINGS[kind])
        if scheme not in databases:
            databases[scheme] = servers[kind].database(scheme)
        return databases[scheme]

    try:
        yield database
    finally:
        for server in servers.values():
            server.remove()


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[str], Cluster]]:
    """Return a function that returns the cluster of a kind. Skip the test if it is not installed; fail in CI."""
    started: Dict[str, Cluster] = {}

    def cluster(kind: str) -> Cluster:
        if kind not in started:
            require(CLUSTERS[kind].kind)
            started[kind] = CLUSTERS[kind](max_connections="200", max_allowed_packet="64M")
            started[kind].start()
        return started[kind]

    try:
        yield cluster
    finally:
        for each in started.values():
            each.remove()


def database_for(scheme: str, tmp_path: Path, server_databases: Callable[[str], Database]) -> Iterator[AnyDatabase]:
    """Yield a database without the table. Drop the table of a server database afterwards."""
    if scheme == "sqlite":
        yield SqliteFile(tmp_path)
        return
    database = server_databases(scheme)
    try:
        yield database
    finally:
        database.sql("DROP TABLE IF EXISTS db_log")


@pytest.fixture(params=DATABASES)
def database(
    request: pytest.FixtureRequest, tmp_path: Path, server_databases: Callable[[str], Database]
) -> Iterator[AnyDatabase]:
    """Run the test on each database."""
    yield from database_for(request.param, tmp_path, server_databases)


@pytest.fixture
def sqlite_file(tmp_path: Path) -> SqliteFile:
    """Return an SQLite database, for tests of SQLite only."""
    return SqliteFile(tmp_path)


@pytest.fixture
def store(database: AnyDatabase) -> Iterator[DBStore]:
    """Run the test with a store on each database."""
    store = DBStore(connection_string=database.url)
    yield store
    store.close()


@pytest.fixture
def any_store(
    request: pytest.FixtureRequest, tmp_path: Path, server_databases: Callable[[str], Database]
) -> Iterator[BaseRunLogStore]:
    """Run the test with a store on each database, and with the stores of magnus in its `oracle` marker."""
    if request.param in ORACLES:
        yield ORACLES[request.param](log_folder=str(tmp_path))
        return
    for database in database_for(request.param, tmp_path, server_databases):
        store = DBStore(connection_string=database.url)
        yield store
        store.close()


@contextlib.contextmanager
def new_store(url: str, **options: Any) -> Iterator[DBStore]:
    """Return another store on a database. Transient errors are not retried, unless `retry_timeout` says so."""
    store = DBStore(connection_string=url, **{"retry_timeout": 0, **options})
    try:
        yield store
    finally:
        store.close()


def check(url: str) -> CheckReport:
    """Check a database as `magnus db check` does."""
    with contextlib.closing(open_store(connection_string=url)) as store:
        return runs.check(store)


class Project:
    """A folder with a pipeline and its configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MAGNUS_", "COVERAGE_"))
        }
        self.environment["COLUMNS"] = "200"
        self._usual_environment = dict(self.environment)

    def write(self, **files: Any) -> None:
        """Write files. `pipeline_yaml=...` writes pipeline.yaml. Values that are not strings are written as JSON."""
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
            text=True,
            **{"stderr": subprocess.STDOUT, **popen},
        )

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command and return its output. With `fails`, check that its exit code is not 0."""
        # Python and its libraries read some variables when they start.
        if command[0] == "magnus" and self.environment == self._usual_environment:
            exit_code, output = run_magnus_in_forked_process([*command], self.folder, self.environment)
        else:
            process = self.start(*command)
            output, _ = process.communicate(timeout=300)
            exit_code = process.returncode
        assert (exit_code != 0) == fails, output[-5000:]
        return output

    def magnus(self, *arguments: str, fails: bool = False) -> str:
        return self.run("magnus", *arguments, fails=fails)

    def python(self, *arguments: str) -> str:
        return self.run("python", *arguments)

    def execute(self, run_id: str, *arguments: str, fails: bool = False) -> str:
        return self.magnus(
            "execute", "-f", "pipeline.yaml", "-c", "config.yaml", "--run-id", run_id, *arguments, fails=fails
        )


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a certificate authority, and a certificate for localhost."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a browser. Skip the test if there is none; fail in CI."""
    if not IS_INSTALLED:
        reason = "Chromium is not installed: apt-get install chromium chromium-driver; pip install selenium pypdf"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    browser = Browser(tmp_path_factory.mktemp("pages"))
    yield browser
    browser.driver.quit()

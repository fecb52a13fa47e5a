"""Servers that stand in for one another: PostgreSQL with a standby, and the three nodes of a Galera cluster."""

import itertools
import os
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from concurrency import FORKSERVER, run_in_processes
from conftest import Project, new_server
from logs import step
from servers import OWNER, PASSWORD, Database, Galera, PostgreSQL, why_missing
from test_pipelines import dag, mapped, python
from test_processes import PROCESS_COUNT, assert_branches_complete, create_run, set_same_parameters, write_branch

from magnus_peewee_store import DBStore, db
from magnus_peewee_store.db.schema import INDEXES


@contextmanager
def store_on(url: str) -> Iterator[DBStore]:
    store = DBStore(connection_string=url)
    try:
        yield store
    finally:
        store.close()


# Writers that do not stop for a server that does


def write_until_told(number: int, url: str, stop: Any, acknowledged: Any) -> None:
    store = DBStore(connection_string=url)
    try:
        for attempt in itertools.count():
            if stop.is_set():
                return
            run_id = f"{number}-{attempt}"
            store.create_run_log(run_id)
            store.add_step_log(step("only"), run_id)
            store.add_step_log(step(run_id), "run")
            acknowledged.send(attempt)
    except Exception:
        acknowledged.send(traceback.format_exc())


class Writers:
    """Processes, a connection string each, that write in a loop, and tell what was acknowledged to them."""

    def __init__(self, urls: List[str]) -> None:
        self.acknowledged = [0 for _ in urls]
        self._stop = FORKSERVER.Event()
        self._pipes, self._processes = [], []
        for number, url in enumerate(urls):
            receiving, sending = FORKSERVER.Pipe(duplex=False)
            process = FORKSERVER.Process(target=write_until_told, args=(number, url, self._stop, sending))
            process.start()
            sending.close()
            self._pipes.append(receiving)
            self._processes.append(process)

    def go_on(self, database: Database) -> None:
        """Wait until each has written some more than a database holds by now."""
        steps = database.sql("SELECT attribute_key FROM db_log WHERE run_id = 'run' AND attribute_type = 'Step'")
        held = Counter(int(name.partition("-")[0]) for (name,) in steps)
        while any(count < held[number] + 10 for number, count in enumerate(self.acknowledged)):
            for pipe in wait(self._pipes):
                self._receive(self._pipes.index(pipe))

    def stop(self) -> None:
        """Let each come to an end, with its last write acknowledged."""
        self._stop.set()
        for number, process in enumerate(self._processes):
            try:
                while True:
                    self._receive(number)
            except EOFError:
                process.join()

    def kill(self) -> None:
        for process, pipe in zip(self._processes, self._pipes):
            process.kill()
            process.join()
            pipe.close()

    def written(self) -> List[Tuple[str, str, str]]:
        """The rows that were acknowledged, each once, in order."""
        attempts = [f"{number}-{each}" for number, count in enumerate(self.acknowledged) for each in range(count)]
        rows = [[(name, "RunLog", "run_log"), (name, "Step", "only"), ("run", "Step", name)] for name in attempts]
        return sorted([("run", "RunLog", "run_log"), *itertools.chain(*rows)])

    def _receive(self, number: int) -> None:
        answer = self._pipes[number].recv()
        assert answer == self.acknowledged[number], answer
        self.acknowledged[number] += 1


@contextmanager
def writers(urls: List[str]) -> Iterator[Writers]:
    crowd = Writers(urls)
    try:
        yield crowd
    finally:
        crowd.kill()


def rows(database: Database) -> List[Tuple[str, str, str]]:
    return sorted(database.sql("SELECT run_id, attribute_type, attribute_key FROM db_log"))


# PostgreSQL


class Pair:
    """A primary and its standby, of which the one that takes writes is connected to."""

    def __init__(self, primary: PostgreSQL, standby: PostgreSQL, scheme: str) -> None:
        self.primary = primary
        self.standby = standby
        self.database = primary.database(scheme)
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        self.url = f"{scheme}://{OWNER}:{PASSWORD}@{hosts}/{self.database.name}?target_session_attrs=read-write"


@pytest.fixture(params=["postgresql+psycopg2", "postgresql+psycopg"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A pair whose primary acknowledges no commit before the standby has it: what was acknowledged outlives it."""
    primary: Any = new_server("postgresql")
    standbys: List[PostgreSQL] = []
    try:
        standbys.append(primary.standby())
        primary.wait_for_standbys_at_commits()
        yield Pair(primary, standbys[0], request.param)
    finally:
        for server in [*standbys, primary]:
            server.remove()


FUNCTIONS = """
import time
from pathlib import Path
from pydantic import BaseModel

class Loaded(BaseModel):
    files: list
    rows: int

def load():
    return Loaded(files=["jan", "feb"], rows=1)

def wait():
    Path("reached").touch()
    while not Path("go on").exists():
        time.sleep(0.05)
    return Loaded(files=["mar", "apr"], rows=2)

def work(file: str, rows: int):
    assert rows == 2
"""


def test_a_pipeline_goes_on_with_the_standby_that_is_promoted_while_it_runs(project: Project, pair: Pair) -> None:
    """The primary replicates synchronously: with a standby that lags, a failover loses what it had not received yet.

    The primary is killed in the middle of a step, the pipeline then finds no server that takes writes, and only after
    it said that it waits is the standby promoted.
    """
    project.write(
        functions_py=FUNCTIONS,
        config_yaml={"run_log_store": {"type": "db", "config": {"connection_string": pair.url}}},
        pipeline_yaml={
            "dag": dag(
                load=python("load"),
                wait=python("wait"),
                stub={"type": "stub"},
                each=mapped("files", dag(work=python("work"))),
            )
        },
    )
    arguments = ("execute", "-f", "pipeline.yaml", "-c", "config.yaml", "--run-id", "run")
    with project.start("magnus", *arguments) as process:
        assert process.stdout
        try:
            while not (project.folder / "reached").exists():
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.05)
            pair.primary.stop(immediate=True)
            (project.folder / "go on").touch()
            output = []
            for line in process.stdout:
                output.append(line)
                if "Waiting up to" in line:
                    break
            else:
                pytest.fail("".join(output))
            pair.standby.promote()
            output.extend(process.stdout)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, "".join(output)

    with store_on(pair.database.on(pair.standby).url) as store:
        log = store.get_run_log_by_id("run", full=True)
    assert log.status == "SUCCESS"
    assert log.parameters == {"files": ["mar", "apr"], "rows": 2}
    assert list(log.steps) == ["load", "wait", "stub", "each", "success"]
    branches = log.steps["each"].branches
    assert {name: (branch.status, list(branch.steps)) for name, branch in branches.items()} == {
        f"each.{file}": ("SUCCESS", [f"each.{file}.work", f"each.{file}.success"]) for file in ("mar", "apr")
    }
    steps = [*log.steps.values(), *itertools.chain(*(branch.steps.values() for branch in branches.values()))]
    assert {each.status for each in steps} == {"SUCCESS"}
    assert [len(log.steps[name].attempts) for name in ("load", "wait")] == [1, 1]


def test_what_was_acknowledged_outlives_the_primary(pair: Pair) -> None:
    """The primary replicates synchronously: with a standby that lags, a failover loses what it had not received yet."""
    with store_on(pair.url) as store:
        store.create_run_log("run")
    promoted = pair.database.on(pair.standby)
    with writers([pair.url] * 4) as crowd:
        crowd.go_on(pair.database)
        pair.primary.stop(immediate=True)
        pair.standby.promote()
        crowd.go_on(promoted)
        crowd.stop()
    assert rows(promoted) == crowd.written()


def test_a_run_that_the_standby_has_unacknowledged_is_not_taken_for_anothers(pair: Pair) -> None:
    """The primary is killed after the standby received the commit, and before its client was told of it."""
    db.create_tables(pair.url)
    # A commit is now acknowledged when the standby shows it, which has it by then, and is kept from showing it.
    pair.database.sql(f"ALTER DATABASE {pair.database.name} SET synchronous_commit = remote_apply")
    pair.primary.wait_for(pair.standby)
    pair.standby.sql("SELECT pg_wal_replay_pause()")
    with store_on(pair.url) as store, ThreadPoolExecutor() as executor:
        created = executor.submit(store.create_run_log, "run")
        try:
            pair.primary.wait_for_unacknowledged_commit(pair.database.name)
        finally:
            pair.primary.stop(immediate=True)
            pair.standby.promote()
        assert created.result().run_id == "run"
        store.add_step_log(step("s"), "run")
    assert rows(pair.database.on(pair.standby)) == [("run", "RunLog", "run_log"), ("run", "Step", "s")]


# Galera


@pytest.fixture(scope="module")
def galera() -> Iterator[Galera]:
    """A cluster for all tests. Where it is not installed, they are skipped; in CI that is an error."""
    missing = why_missing("galera")
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    cluster = Galera(max_connections="200", max_allowed_packet="64M")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


class Nodes:
    """A fresh database, as each node shows it."""

    def __init__(self, cluster: Galera) -> None:
        database = cluster.database("mysql+pymysql")
        self.databases = [database.on(node) for node in cluster.nodes]
        self.urls = [database.url for database in self.databases]

    def sql(self, statement: str) -> Any:
        """What a statement returns, on every node the same."""
        answers = []
        for database in self.databases:
            node: Any = database.server
            node.wait_for_cluster()
            answers.append(database.sql(statement))
        assert answers == [answers[0]] * len(answers)
        return answers[0]

    @contextmanager
    def stores(self) -> Iterator[List[DBStore]]:
        """A store a node."""
        stores = [DBStore(connection_string=url) for url in self.urls]
        try:
            yield stores
        finally:
            for store in stores:
                store.close()

    def at_once(self, work: Callable[..., Any], count: int = PROCESS_COUNT) -> List[Any]:
        """Call `work(number, url)` in so many processes at once, spread over the nodes."""
        return run_in_processes(count, call_with_a_node, work, self.urls)


@pytest.fixture
def nodes(galera: Galera) -> Iterator[Nodes]:
    nodes = Nodes(galera)
    yield nodes
    nodes.databases[0].drop()


def call_with_a_node(number: int, work: Callable[..., Any], urls: List[str]) -> Any:
    return work(number, urls[number % len(urls)])


def write_the_same_keys(number: int, url: str) -> None:
    with store_on(url) as store:
        for attempt in range(10):
            store.set_parameters("run", {f"p{attempt}": number})
            store.add_step_log(step(f"s{attempt}", message=str(number)), "run")


def test_a_key_that_all_nodes_write_at_once_is_one_row_on_each(nodes: Nodes) -> None:
    with nodes.stores() as [store, *_]:
        store.create_run_log("run")
    nodes.at_once(write_the_same_keys)
    written = nodes.sql("SELECT attribute_type, attribute_key, attribute_value FROM db_log ORDER BY pk")
    keys = [f"{kind}{attempt}" for kind in "ps" for attempt in range(10)]
    assert sorted(key for kind, key, _ in written if kind != "RunLog") == sorted(keys)
    assert len(written) == 1 + len(keys)


def write_own_keys(number: int, url: str) -> None:
    with store_on(url) as store:
        for attempt in range(10):
            store.add_step_log(step(f"s{number}-{attempt}"), "run")
            store.set_parameters("run", {f"p{number}-{attempt}": attempt, f"q{number}-{attempt}": attempt})


def test_writers_of_different_keys_on_all_nodes_lose_nothing(nodes: Nodes) -> None:
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        nodes.at_once(write_own_keys)
        own = [(number, attempt) for number in range(PROCESS_COUNT) for attempt in range(10)]
        for store in stores:
            run_log = store.get_run_log_by_id("run", full=True)
            assert set(run_log.steps) == {f"s{number}-{attempt}" for number, attempt in own}
            assert run_log.parameters == {
                f"{letter}{number}-{attempt}": attempt for number, attempt in own for letter in "pq"
            }
    assert nodes.sql("SELECT COUNT(*) FROM db_log") == [(1 + len(own) * 3,)]


def test_a_crowd_on_all_nodes_that_writes_one_run_loses_and_doubles_nothing(nodes: Nodes) -> None:
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        stores[1].add_step_log(step("map", step_type="map"), "run")
        nodes.at_once(write_branch)
        run_logs = [store.get_run_log_by_id("run", full=True) for store in stores]
    run_log = run_logs[0]
    assert run_logs == [run_log] * 3
    assert_branches_complete(run_log)
    rows = nodes.sql("SELECT attribute_type, attribute_key FROM db_log WHERE run_id = 'run' ORDER BY pk")
    assert len(rows) == len(set(rows)) == 2 + PROCESS_COUNT + PROCESS_COUNT * 5 * 2 + 1


@pytest.mark.parametrize("count", [2, 12])
@pytest.mark.parametrize("table", ["new", "present"])
def test_of_those_who_create_one_run_on_different_nodes_one_succeeds(nodes: Nodes, table: str, count: int) -> None:
    if table == "present":
        db.create_tables(nodes.urls[0])
    created = nodes.at_once(create_run, count)
    assert created.count(True) == 1
    with nodes.stores() as stores:
        assert [store.get_run_log_by_id("run").tag for store in stores] == [str(created.index(True))] * 3


def test_parameters_that_are_set_together_on_different_nodes_are_seen_together(nodes: Nodes) -> None:
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        nodes.at_once(set_same_parameters)
        first, *others = [store.get_parameters("run") for store in stores]
    assert others == [first, first]
    assert len(first) == 30 and len(set(first.values())) == 1


def test_what_was_written_through_one_node_is_read_at_once_through_another(nodes: Nodes) -> None:
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        for attempt in range(30):
            written_through, read_through = stores[attempt % 3], stores[(attempt + 1) % 3]
            # So much that to apply it takes a while.
            metrics = {"filling": "x" * 1_000_000}
            written_through.add_step_log(step("s", message=str(attempt), user_defined_metrics=metrics), "run")
            assert read_through.get_step_log("s", "run").message == str(attempt)


def create_the_table(number: int, url: str) -> None:
    db.create_tables(url)


@pytest.mark.parametrize("count", [2, 12])
def test_the_table_is_made_on_different_nodes_at_once(nodes: Nodes, count: int) -> None:
    nodes.at_once(create_the_table, count)
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        assert stores[1].get_run_log_by_id("run").run_id == "run"
    assert nodes.sql("SELECT COUNT(*) FROM db_log") == [(1,)]
    indexes = "SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()"
    assert len(nodes.sql(f"{indexes} AND table_name = 'db_log'")) == 1 + len(INDEXES)  # and the primary key


def test_writers_go_on_and_lose_nothing_when_another_node_is_killed(nodes: Nodes) -> None:
    with nodes.stores() as [store, *_]:
        store.create_run_log("run")
    first, second, third = nodes.databases
    killed: Any = third.server
    with writers(nodes.urls[:2] * 2) as crowd:
        crowd.go_on(first)
        killed.stop(immediate=True)
        try:
            for survivor in (first, second):
                node: Any = survivor.server
                node.wait_for_cluster_of(2)
                crowd.go_on(survivor)
            crowd.stop()
            assert rows(first) == rows(second) == crowd.written()
        finally:
            killed.start()
    killed.wait_for_cluster()
    assert rows(third) == crowd.written()

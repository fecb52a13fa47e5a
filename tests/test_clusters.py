"""Test replicated servers: PostgreSQL with a standby, and clusters with three nodes: Galera, and MySQL's group."""

import itertools
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.connection import wait
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from concurrency import FORKSERVER, run_in_processes
from conftest import CLUSTERS, Project, new_server
from logs import step
from servers import OWNER, PASSWORD, Cluster, Database, PostgreSQL
from test_faults import DEADLINE, Proxy, WaitMessages, until, wait_messages  # noqa: F401 - a fixture
from test_pipelines import dag, mapped, python
from test_processes import PROCESS_COUNT, assert_branches_complete, create_run, set_same_parameters, write_branch

from magnus_peewee_store import DBStore, db
from magnus_peewee_store.db.schema import INDEXES


@contextmanager
def store_on(url: str, **options: Any) -> Iterator[DBStore]:
    store = DBStore(connection_string=url, **options)
    try:
        yield store
    finally:
        store.close()


# Processes that write all the time


def write_until_stopped(number: int, url: str, stop: Any, acknowledged: Any) -> None:
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
    """Run one process per connection string. Each writes in a loop and reports its acknowledged writes."""

    def __init__(self, urls: List[str]) -> None:
        self.acknowledged = [0 for _ in urls]
        self._stop = FORKSERVER.Event()
        self._pipes, self._processes = [], []
        for number, url in enumerate(urls):
            receiving, sending = FORKSERVER.Pipe(duplex=False)
            process = FORKSERVER.Process(target=write_until_stopped, args=(number, url, self._stop, sending))
            process.start()
            sending.close()
            self._pipes.append(receiving)
            self._processes.append(process)

    def wait_for_more_writes(self, database: Database) -> None:
        """Wait until each process has written more than the database contains now."""
        steps = database.sql("SELECT attribute_key FROM db_log WHERE run_id = 'run' AND attribute_type = 'Step'")
        written = Counter(int(name.partition("-")[0]) for (name,) in steps)
        while any(count < written[number] + 10 for number, count in enumerate(self.acknowledged)):
            for pipe in wait(self._pipes):
                self._receive(self._pipes.index(pipe))

    def stop(self) -> None:
        """Stop all processes after their last write is acknowledged."""
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

    def acknowledged_rows(self) -> List[Tuple[str, str, str]]:
        """Return the acknowledged rows, sorted and without duplicates."""
        run_ids = [f"{number}-{each}" for number, count in enumerate(self.acknowledged) for each in range(count)]
        acknowledged = [
            [(name, "RunLog", "run_log"), (name, "Step", "only"), ("run", "Step", name)] for name in run_ids
        ]
        return sorted([("run", "RunLog", "run_log"), *itertools.chain(*acknowledged)])

    def _receive(self, number: int) -> None:
        answer = self._pipes[number].recv()
        assert answer == self.acknowledged[number], answer
        self.acknowledged[number] += 1


@contextmanager
def start_writers(urls: List[str]) -> Iterator[Writers]:
    running_writers = Writers(urls)
    try:
        yield running_writers
    finally:
        running_writers.kill()


def stored_rows(database: Database) -> List[Tuple[str, str, str]]:
    return sorted(database.sql("SELECT run_id, attribute_type, attribute_key FROM db_log"))


# PostgreSQL


class Pair:
    """A primary and its standby. The URL connects to the one that accepts writes."""

    def __init__(self, primary: PostgreSQL, standby: PostgreSQL, scheme: str) -> None:
        self.primary = primary
        self.standby = standby
        self.database = primary.database(scheme)
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        self.url = f"{scheme}://{OWNER}:{PASSWORD}@{hosts}/{self.database.name}?target_session_attrs=read-write"

    def fail_over(self) -> None:
        """Kill the primary and promote the standby. A new standby takes the primary's place and port."""
        self.primary.stop(immediate=True)
        self.standby.promote()
        killed, self.primary = self.primary, self.standby
        self.standby = self.primary.standby(killed.port)
        killed.remove()
        self.primary.wait_for_standbys_at_commits()
        self.primary.wait_for(self.standby)

    def remove(self) -> None:
        self.standby.remove()
        self.primary.remove()


@contextmanager
def start_pair(scheme: str) -> Iterator[Pair]:
    """Start a primary that acknowledges a commit only when the standby has received it."""
    # How soon a standby reconnects, and how soon a deadlock is looked for.
    settings = {"wal_retrieve_retry_interval": "100ms", "deadlock_timeout": "50ms"}
    primary: Any = new_server("postgresql", **settings)
    try:
        standby = primary.standby()
    except BaseException:
        primary.remove()
        raise
    pair = Pair(primary, standby, scheme)
    try:
        primary.wait_for_standbys_at_commits()
        yield pair
    finally:
        pair.remove()


@pytest.fixture(params=["postgresql+psycopg2", "postgresql+psycopg"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with start_pair(request.param) as pair:
        yield pair


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


def test_pipeline_continues_on_a_promoted_standby(project: Project, pair: Pair) -> None:
    """Kill the primary during a step. Promote the standby when the pipeline reports that it waits for a server.

    Replication is synchronous: with asynchronous replication, a failover loses what the standby has not received yet.
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
                if "Retrying for up to" in line:
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


def test_failover_keeps_acknowledged_writes(pair: Pair) -> None:
    """Replication is synchronous: with asynchronous replication, a failover may lose acknowledged writes."""
    with store_on(pair.url) as store:
        store.create_run_log("run")
    promoted = pair.database.on(pair.standby)
    with start_writers([pair.url] * 4) as running_writers:
        running_writers.wait_for_more_writes(pair.database)
        pair.primary.stop(immediate=True)
        pair.standby.promote()
        running_writers.wait_for_more_writes(promoted)
        running_writers.stop()
    assert stored_rows(promoted) == running_writers.acknowledged_rows()


def test_failover_recognizes_an_unacknowledged_create(pair: Pair) -> None:
    """Kill the primary after the standby has received the commit, but before the client gets the acknowledgement."""
    db.create_tables(pair.url)
    # A commit now waits until the standby has replayed it. The standby receives it, but replay is paused.
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
    assert stored_rows(pair.database.on(pair.standby)) == [("run", "RunLog", "run_log"), ("run", "Step", "s")]


# Clusters


class ClusterDatabase:
    """A new database of a cluster, with one URL per node."""

    def __init__(self, cluster: Cluster) -> None:
        database = cluster.database("mysql+pymysql")
        self.databases = [database.on(node) for node in cluster.nodes]
        self.urls = [database.url for database in self.databases]

    def sql(self, statement: str) -> Any:
        """Run a statement on each node, and return the result. It must be the same on all nodes."""
        results = []
        for database in self.databases:
            node: Any = database.server
            node.wait_for_cluster()
            results.append(database.sql(statement))
        assert results == [results[0]] * len(results)
        return results[0]

    @contextmanager
    def stores(self) -> Iterator[List[DBStore]]:
        """Open one store per node."""
        stores = [DBStore(connection_string=url) for url in self.urls]
        try:
            yield stores
        finally:
            for store in stores:
                store.close()

    def run_in_processes(self, work: Callable[..., Any]) -> List[Any]:
        """Call `work(number, url)` in many processes at once, distributed over the nodes."""
        return run_in_processes(PROCESS_COUNT, call_with_node_url, work, self.urls)


@pytest.fixture(params=CLUSTERS)
def nodes(request: pytest.FixtureRequest, clusters: Callable[[str], Cluster]) -> Iterator[ClusterDatabase]:
    nodes = ClusterDatabase(clusters(request.param))
    yield nodes
    nodes.databases[0].drop()


def call_with_node_url(number: int, work: Callable[..., Any], urls: List[str]) -> Any:
    return work(number, urls[number % len(urls)])


def write_same_keys(number: int, url: str) -> None:
    with store_on(url) as store:
        for attempt in range(10):
            store.set_parameters("run", {f"p{attempt}": number})
            store.add_step_log(step(f"s{attempt}", message=str(number)), "run")


def test_same_keys_on_all_nodes_are_not_duplicated(nodes: ClusterDatabase) -> None:
    with nodes.stores() as [store, *_]:
        store.create_run_log("run")
    nodes.run_in_processes(write_same_keys)
    written = nodes.sql("SELECT attribute_type, attribute_key, attribute_value FROM db_log ORDER BY pk")
    keys = [f"{letter}{attempt}" for letter in "ps" for attempt in range(10)]
    assert sorted(key for attribute_type, key, _ in written if attribute_type != "RunLog") == sorted(keys)
    assert len(written) == 1 + len(keys)


def write_own_keys(number: int, url: str) -> None:
    with store_on(url) as store:
        for attempt in range(10):
            store.add_step_log(step(f"s{number}-{attempt}"), "run")
            store.set_parameters("run", {f"p{number}-{attempt}": attempt, f"q{number}-{attempt}": attempt})


def test_different_keys_on_all_nodes_are_not_lost(nodes: ClusterDatabase) -> None:
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        nodes.run_in_processes(write_own_keys)
        own = [(number, attempt) for number in range(PROCESS_COUNT) for attempt in range(10)]
        for store in stores:
            run_log = store.get_run_log_by_id("run", full=True)
            assert set(run_log.steps) == {f"s{number}-{attempt}" for number, attempt in own}
            assert run_log.parameters == {
                f"{letter}{number}-{attempt}": attempt for number, attempt in own for letter in "pq"
            }
    assert nodes.sql("SELECT COUNT(*) FROM db_log") == [(1 + len(own) * 3,)]


def test_many_writers_of_one_run_on_all_nodes_lose_nothing(nodes: ClusterDatabase) -> None:
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        stores[1].add_step_log(step("map", step_type="map"), "run")
        nodes.run_in_processes(write_branch)
        run_logs = [store.get_run_log_by_id("run", full=True) for store in stores]
    run_log = run_logs[0]
    assert run_logs == [run_log] * 3
    assert_branches_complete(run_log)
    rows = nodes.sql("SELECT attribute_type, attribute_key FROM db_log WHERE run_id = 'run' ORDER BY pk")
    assert len(rows) == len(set(rows)) == 2 + PROCESS_COUNT + PROCESS_COUNT * 5 * 2 + 1


@pytest.mark.parametrize("table", ["missing", "existing"])
def test_only_one_node_creates_a_run(nodes: ClusterDatabase, table: str) -> None:
    if table == "existing":
        db.create_tables(nodes.urls[0])
    created = nodes.run_in_processes(create_run)
    assert created.count(True) == 1
    with nodes.stores() as stores:
        assert [store.get_run_log_by_id("run").tag for store in stores] == [str(created.index(True))] * 3


def test_parameters_set_together_on_all_nodes_stay_together(nodes: ClusterDatabase) -> None:
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        nodes.run_in_processes(set_same_parameters)
        first, *others = [store.get_parameters("run") for store in stores]
    assert others == [first, first]
    assert len(first) == 30 and len(set(first.values())) == 1


def test_write_on_one_node_is_visible_on_another(nodes: ClusterDatabase) -> None:
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        for attempt in range(30):
            writing_store, reading_store = stores[attempt % 3], stores[(attempt + 1) % 3]
            # A large value, which the other nodes need some time to apply.
            metrics = {"large": "x" * 1_000_000}
            writing_store.add_step_log(step("s", message=str(attempt), user_defined_metrics=metrics), "run")
            assert reading_store.get_step_log("s", "run").message == str(attempt)


def create_table(number: int, url: str) -> None:
    db.create_tables(url)


def test_create_tables_on_all_nodes_at_once(nodes: ClusterDatabase) -> None:
    nodes.run_in_processes(create_table)
    with nodes.stores() as stores:
        stores[0].create_run_log("run")
        assert stores[1].get_run_log_by_id("run").run_id == "run"
    assert nodes.sql("SELECT COUNT(*) FROM db_log") == [(1,)]
    indexes = "SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()"
    assert len(nodes.sql(f"{indexes} AND table_name = 'db_log'")) == 1 + len(INDEXES)  # plus the primary key


def test_crashed_node_does_not_stop_other_writers(nodes: ClusterDatabase) -> None:
    with nodes.stores() as [store, *_]:
        store.create_run_log("run")
    first, second, third = nodes.databases
    killed: Any = third.server
    with start_writers(nodes.urls[:2] * 2) as running_writers:
        running_writers.wait_for_more_writes(first)
        killed.stop(immediate=True)
        try:
            for survivor in (first, second):
                node: Any = survivor.server
                node.wait_for_cluster_of(2)
                running_writers.wait_for_more_writes(survivor)
            running_writers.stop()
            assert stored_rows(first) == stored_rows(second) == running_writers.acknowledged_rows()
        finally:
            killed.start()
    killed.wait_for_cluster()
    assert stored_rows(third) == running_writers.acknowledged_rows()


# MySQL's group

GROUPS = [kind for kind in CLUSTERS if kind == "mysql_group"]


@pytest.mark.parametrize("nodes", GROUPS, indirect=True)
def test_new_primary_of_a_group_has_all_acknowledged_writes(nodes: ClusterDatabase) -> None:
    """The writers connect through an address that moves to the new primary."""
    nodes.databases[0].sql("SELECT group_replication_switch_to_single_primary_mode()")
    primary, *others = sorted(nodes.databases, key=lambda database: not database.server.is_primary())
    proxy = Proxy(primary.server.port)
    url = proxy.url(primary)
    try:
        with store_on(url) as store:
            store.create_run_log("run")
        with start_writers([url] * 4) as running_writers:
            running_writers.wait_for_more_writes(primary)
            primary.server.stop(immediate=True)
            new_primary = until(lambda: next((each for each in others if each.server.is_primary()), None))
            proxy.server_port = new_primary.server.port
            running_writers.wait_for_more_writes(new_primary)
            running_writers.stop()
        for database in others:
            database.server.wait_for_cluster()
            assert stored_rows(database) == running_writers.acknowledged_rows()
    finally:
        proxy.close()
        others[0].sql("SELECT group_replication_switch_to_multi_primary_mode()")
        if primary.server._process is None:
            primary.server.start()


@pytest.mark.parametrize("nodes", GROUPS, indirect=True)
def test_expelled_node_answers_when_it_is_back(nodes: ClusterDatabase, wait_messages: WaitMessages) -> None:  # noqa: F811
    expelled: Any = nodes.databases[2].server
    with nodes.stores() as [store, _, expelled_store]:
        store.create_run_log("run")
        expelled_store.get_run_log_by_id("run")
        expelled.pause()
        nodes.databases[0].server.wait_for_cluster_of(2)
        store.add_step_log(step("s"), "run")
        expelled.resume()
        assert expelled_store.get_step_log("s", "run").internal_name == "s"
    assert wait_messages.messages
    expelled.wait_for_cluster_of(3)


@pytest.mark.parametrize("nodes", GROUPS, indirect=True)
def test_read_behind_a_delayed_node_is_retried(nodes: ClusterDatabase, wait_messages: WaitMessages) -> None:  # noqa: F811
    delayed = nodes.databases[2]
    with nodes.stores() as [store, _, delayed_store], ThreadPoolExecutor() as executor:
        store.create_run_log("run")
        delayed_store.get_run_log_by_id("run")
        [[seconds]] = delayed_store.database.execute_sql("SELECT @@SESSION.wait_timeout").fetchall()
        assert seconds == 60
        delayed_store.database.execute_sql("SET SESSION wait_timeout = 1")
        with closing(delayed.administrator()) as administrator, closing(administrator.cursor()) as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")
            store.add_step_log(step("s"), "run")
            reading = executor.submit(delayed_store.get_step_log, "s", "run")
            assert wait_messages.has_message.wait(DEADLINE)
        assert reading.result().internal_name == "s"

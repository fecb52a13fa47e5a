"""Test transient and permanent errors: nothing is lost, duplicated, or reported as 'not found'."""

import contextlib
import itertools
import logging
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import peewee
import pytest
from concurrency import FORKSERVER, run_in_processes
from conftest import SERVERS, Project, new_server
from logs import step
from magnus import exceptions
from magnus.datastore import BranchLog, RunLog
from servers import Database

from magnus_peewee_store import DBStore, InvalidValueError

DEADLINE = 60


@pytest.fixture(scope="module", params=SERVERS)
def private_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Return a database on its own server, which tests can stop, restart and overload."""
    kind = SERVERS[request.param]
    server = new_server(kind, max_connections="20")
    try:
        yield server.database(request.param)
    finally:
        server.remove()


@pytest.fixture
def fragile_database(private_database: Database) -> Iterator[Database]:
    """Return the same database without the table. Restart the server after the test if necessary."""
    yield private_database
    if private_database.server._process is None:
        private_database.server.start()
    private_database.sql("DROP TABLE IF EXISTS db_log")


@pytest.fixture
def fragile_store(fragile_database: Database) -> Iterator[DBStore]:
    store = DBStore(connection_string=fragile_database.url)
    yield store
    store.close()


class WaitMessages(logging.Handler):
    """Collect the log messages that start with "Retrying"."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: List[str] = []
        self.has_message = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Retrying"):
            self.messages.append(record.getMessage())
            self.has_message.set()


@pytest.fixture
def wait_messages() -> Iterator[WaitMessages]:
    handler = WaitMessages()
    logging.getLogger("magnus.db").addHandler(handler)
    yield handler
    logging.getLogger("magnus.db").removeHandler(handler)


def until(condition: Callable[[], Any]) -> Any:
    """Poll until the condition is true, and return its value. Other processes have no event to wait for."""
    give_up = threading.Event()
    timer = threading.Timer(DEADLINE, give_up.set)
    timer.start()
    try:
        while not give_up.wait(0.01):
            answer = condition()
            if answer:
                return answer
        raise AssertionError("The condition did not become true in time.")
    finally:
        timer.cancel()


@contextlib.contextmanager
def in_background(work: Callable[[], Any]) -> Iterator[List[Any]]:
    """Call `work` in a thread. At the end wait for it, and raise its exception."""
    results: List[Any] = []
    errors: List[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield results
    thread.join(2 * DEADLINE)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def session_ids(database: Database) -> List[int]:
    server: Any = database.server
    if server.dialect == "mysql":
        rows = database.sql(f"SELECT id FROM {server.monitoring_schema}.processlist WHERE user = 'scott'")
    else:
        rows = database.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'scott'")
    return [number for (number,) in rows]


def kill_session(database: Database, number: int) -> None:
    if database.server.dialect == "mysql":
        database.sql(f"KILL {number}")
    else:
        database.sql("SELECT pg_terminate_backend(?)", number)


# Restarts, stopped servers and killed sessions


def write_steps(url: str, acknowledged: Any, stop: Any) -> None:
    """Write steps and parameters until `stop` is set. Send the number of each acknowledged step."""
    store = DBStore(connection_string=url)
    for number in itertools.count():
        if stop.is_set():
            break
        store.add_step_log(step(f"s{number}"), "run")
        store.set_parameters("run", {"a": number, "b": number})
        acknowledged.send(number)
    acknowledged.close()


@pytest.mark.parametrize("immediate", [False, True], ids=["fast", "immediate"])
def test_restart_loses_nothing(fragile_store: DBStore, fragile_database: Database, immediate: bool) -> None:
    fragile_store.create_run_log("run")
    stop = FORKSERVER.Event()
    receiving, sending = FORKSERVER.Pipe(duplex=False)
    writer = FORKSERVER.Process(target=write_steps, args=(fragile_database.url, sending, stop))
    writer.start()
    sending.close()
    last_step = -1
    for restart in range(3):
        while last_step < restart * 20 + 10:
            last_step = receiving.recv()
        fragile_database.server.restart(immediate)
    while last_step < 100:
        last_step = receiving.recv()
    stop.set()
    with contextlib.suppress(EOFError):
        while True:
            last_step = receiving.recv()
    writer.join()
    assert writer.exitcode == 0
    log = fragile_store.get_run_log_by_id("run", full=True)
    assert list(log.steps) == [f"s{number}" for number in range(last_step + 1)]
    assert log.parameters == {"a": last_step, "b": last_step}
    assert fragile_database.sql("SELECT COUNT(*) FROM db_log") == [(last_step + 1 + 3,)]


PIPELINE = {
    "dag": {
        "start_at": "a",
        "steps": {
            "a": {"type": "stub", "next": "pause"},
            "pause": {"type": "task", "command": "functions.pause", "next": "b"},
            "b": {"type": "stub", "next": "success"},
            "success": {"type": "success"},
            "fail": {"type": "fail"},
        },
    }
}
# The step waits until the test creates the file "go on".
PAUSE = """
import time
from pathlib import Path

def pause():
    Path("paused").touch()
    while not Path("go on").exists():
        time.sleep(0.01)
"""


def start_pipeline(project: Project, database: Database) -> "subprocess.Popen[str]":
    config = {"run_log_store": {"type": "db", "config": {"connection_string": database.url}}}
    project.write(functions_py=PAUSE, pipeline_yaml=PIPELINE, config_yaml=config)
    return project.start("magnus", "execute", "-f", "pipeline.yaml", "-c", "config.yaml", "--run-id", "run")


def check_pipeline(process: "subprocess.Popen[str]", store: DBStore) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-5000:]
    log = store.get_run_log_by_id("run", full=True)
    assert log.status == "SUCCESS"
    assert [(name, each.status) for name, each in log.steps.items()] == [
        (name, "SUCCESS") for name in ("a", "pause", "b", "success")
    ]
    return output


@pytest.mark.parametrize("immediate", [False, True], ids=["fast", "immediate"])
def test_pipeline_continues_after_a_restart(
    project: Project, fragile_store: DBStore, fragile_database: Database, immediate: bool
) -> None:
    process = start_pipeline(project, fragile_database)
    until(lambda: (project.folder / "paused").exists())
    fragile_database.server.restart(immediate)
    (project.folder / "go on").touch()
    check_pipeline(process, fragile_store)


def test_pipeline_waits_for_a_stopped_server(
    project: Project, fragile_store: DBStore, fragile_database: Database
) -> None:
    fragile_database.server.stop()
    (project.folder / "go on").touch()
    process = start_pipeline(project, fragile_database)
    lines = []
    for line in process.stdout:  # type: ignore[union-attr]
        lines.append(line)
        if "Retrying for up to" in line:
            break
    fragile_database.server.start()
    check_pipeline(process, fragile_store)
    assert "".join(lines).count("Retrying for up to") == 1


def test_pipeline_continues_after_a_killed_session(
    project: Project, fragile_store: DBStore, fragile_database: Database
) -> None:
    process = start_pipeline(project, fragile_database)
    until(lambda: (project.folder / "paused").exists())
    for number in session_ids(fragile_database):
        kill_session(fragile_database, number)
    until(lambda: not session_ids(fragile_database))
    (project.folder / "go on").touch()
    check_pipeline(process, fragile_store)


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.create_run_log("new"),
        lambda store: store.get_run_log_by_id("run"),
        lambda store: store.get_run_log_by_id("run", full=True),
        lambda store: store.put_run_log(RunLog(run_id="run", parameters={"x": 1})),
        lambda store: store.update_run_log_status("run", "SUCCESS"),
        lambda store: store.get_parameters("run"),
        lambda store: store.set_parameters("run", {"x": 1, "y": 2}),
        lambda store: store.set_parameters("run", {}),
        lambda store: store.get_run_config("run"),
        lambda store: store.set_run_config("run", {"x": 1}),
        lambda store: store.get_step_log("a", "run"),
        lambda store: store.add_step_log(step("a"), "run"),
        lambda store: store.get_branch_log("a.b", "run"),
        lambda store: store.add_branch_log(BranchLog(internal_name="a.b"), "run"),
    ],
)
def test_every_call_survives_a_killed_session(
    fragile_store: DBStore, fragile_database: Database, wait_messages: WaitMessages, call: Callable[[DBStore], Any]
) -> None:
    fragile_store.create_run_log("run")
    fragile_store.set_parameters("run", {"x": 0})
    fragile_store.add_step_log(step("a"), "run")
    fragile_store.add_branch_log(BranchLog(internal_name="a.b"), "run")
    [session] = session_ids(fragile_database)
    kill_session(fragile_database, session)
    until(lambda: not session_ids(fragile_database))
    call(fragile_store)
    assert len(wait_messages.messages) == 1
    assert session_ids(fragile_database) != [session]
    assert set(fragile_store.get_run_log_by_id("run", full=True).steps) == {"a"}


def test_store_without_retry_reconnects_at_the_next_call(fragile_store: DBStore, fragile_database: Database) -> None:
    store_without_retry = DBStore(connection_string=fragile_database.url, retry_timeout=0)
    store_without_retry.create_run_log("run")
    for number in session_ids(fragile_database):
        kill_session(fragile_database, number)
    until(lambda: not session_ids(fragile_database))
    with pytest.raises(peewee.PeeweeException):
        store_without_retry.get_run_log_by_id("run")
    assert store_without_retry.get_run_log_by_id("run").run_id == "run"
    store_without_retry.close()


def test_server_down_is_not_reported_as_not_found(fragile_store: DBStore, fragile_database: Database) -> None:
    fragile_store.create_run_log("run")
    fragile_database.server.stop()
    store_without_retry = DBStore(connection_string=fragile_database.url, retry_timeout=0)
    calls: List[Callable[[DBStore], Any]] = [
        lambda store: store.create_run_log("run"),
        lambda store: store.get_run_log_by_id("no such run"),
        lambda store: store.get_parameters("no such run"),
        lambda store: store.get_step_log("a", "run"),
        lambda store: store.get_branch_log("a.b", "run"),
        lambda store: store.set_parameters("no such run", {"x": 1}),
        lambda store: store.add_step_log(step("a.b.c"), "run"),
        lambda store: store.update_run_log_status("no such run", "FAIL"),
    ]
    for call in calls:
        with pytest.raises(peewee.OperationalError, match="Cannot connect to .*scott:\\*\\*\\*@127.0.0.1"):
            call(store_without_retry)


def test_store_reconnects_after_an_idle_timeout(fragile_store: DBStore, fragile_database: Database) -> None:
    fragile_store.create_run_log("run")
    fragile_store.close()
    if fragile_database.server.dialect == "mysql":
        fragile_database.sql("SET GLOBAL wait_timeout = 1")
    else:
        fragile_database.sql(f"ALTER DATABASE {fragile_database.name} SET idle_session_timeout = '100ms'")
    try:
        fragile_store.set_parameters("run", {"x": 1})
        until(lambda: not session_ids(fragile_database))
        fragile_store.set_parameters("run", {"x": 2})
    finally:
        if fragile_database.server.dialect == "mysql":
            fragile_database.sql("SET GLOBAL wait_timeout = 28800")
        else:
            fragile_database.sql(f"ALTER DATABASE {fragile_database.name} RESET idle_session_timeout")
    assert fragile_store.get_parameters("run") == {"x": 2}


def test_too_many_clients_is_retried(
    fragile_store: DBStore, fragile_database: Database, wait_messages: WaitMessages
) -> None:
    fragile_store.create_run_log("run")
    fragile_store.close()
    stores: List[DBStore] = []
    try:
        for _ in range(30):
            other = DBStore(connection_string=fragile_database.url, retry_timeout=0)
            try:
                other.get_run_log_by_id("run")
            except peewee.OperationalError:
                break
            stores.append(other)
        assert 5 < len(stores) < 30
        with in_background(lambda: fragile_store.set_parameters("run", {"x": 1})):
            assert wait_messages.has_message.wait(DEADLINE)
            stores.pop().close()
    finally:
        for other in stores:
            other.close()
    assert fragile_store.get_parameters("run") == {"x": 1}


# A connection that dies between a write and its acknowledgement


class Proxy:
    """Forward bytes between a client and a server. On request, drop one answer and close the connection."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.drop_answer_after = b""  # The answer to a request with these bytes is dropped.
        self.has_dropped_answer = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: Database) -> str:
        """Return the URL of a database through the proxy, without TLS: the proxy has to read the requests."""
        options = "?sslmode=disable" if database.server.dialect == "postgresql" else "?ssl_disabled=true"
        return database.url.replace(f":{self.server_port}/", f":{self.port}/") + options

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port))
                except OSError:
                    client.close()
                    continue
                should_drop_answer = threading.Event()
                for source, sink, is_request in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._pump, args=(source, sink, is_request, should_drop_answer), daemon=True
                    ).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, is_request: bool, should_drop_answer: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    break
                if is_request and self.drop_answer_after and self.drop_answer_after in data:
                    self.drop_answer_after = b""
                    should_drop_answer.set()
                elif not is_request and should_drop_answer.is_set():
                    self.has_dropped_answer.set()
                    break
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.mark.parametrize("repetition", range(3))
@pytest.mark.parametrize(
    ("request_part", "call"),
    [
        (b"INSERT", lambda store: store.create_run_log("new", tag="t")),
        (b"INSERT", lambda store: store.add_step_log(step("a", message="new"), "run")),
        (b"INSERT", lambda store: store.set_parameters("run", {"x": 1})),
        (b"INSERT", lambda store: store.set_parameters("run", {"x": 1, "y": 2})),
        (b"INSERT", lambda store: store.put_run_log(RunLog(run_id="new", tag="t", parameters={"x": 1}))),
        (b"COMMIT", lambda store: store.set_parameters("run", dict.fromkeys("xyz", "long" * 20_000))),
        (b"COMMIT", lambda store: store.update_run_log_status("run", "SUCCESS")),
        (b"COMMIT", lambda store: store.set_run_config("run", {"x": 1})),
    ],
)
def test_write_with_lost_acknowledgement_is_done_once(
    fragile_store: DBStore,
    fragile_database: Database,
    request_part: bytes,
    call: Callable[[DBStore], Any],
    repetition: int,
) -> None:
    fragile_store.create_run_log("run")
    proxy = Proxy(fragile_database.server.port)
    proxied_store = DBStore(connection_string=proxy.url(fragile_database))
    try:
        proxied_store.get_run_log_by_id("run")
        proxy.drop_answer_after = request_part
        call(proxied_store)
        assert proxy.has_dropped_answer.is_set()
    finally:
        proxied_store.close()
        proxy.close()
    rows = fragile_database.sql("SELECT run_id, attribute_type, attribute_key FROM db_log")
    assert len(rows) == len(set(rows))
    with pytest.raises(exceptions.RunLogExistsError):
        fragile_store.create_run_log("run")


# Locks and deadlocks


def test_store_waits_for_locks_of_other_clients(fragile_store: DBStore, fragile_database: Database) -> None:
    fragile_store.create_run_log("run")
    server: Any = fragile_database.server
    other = server.administrator(fragile_database.name)
    cursor = other.cursor()
    if server.dialect == "mysql":
        cursor.execute("LOCK TABLES db_log WRITE")
        is_waiting = (
            f"SELECT 1 FROM {server.monitoring_schema}.processlist "
            "WHERE user = 'scott' AND state LIKE 'Waiting for table%'"
        )
        release = "UNLOCK TABLES"
    else:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE db_log")
        is_waiting = "SELECT 1 FROM pg_stat_activity WHERE usename = 'scott' AND wait_event_type = 'Lock'"
        release = "COMMIT"
    with in_background(lambda: fragile_store.set_parameters("run", {"x": 1})):
        until(lambda: fragile_database.sql(is_waiting))
        cursor.execute(release)
    other.close()
    assert fragile_store.get_parameters("run") == {"x": 1}


def put_all(number: int, url: str) -> None:
    """Write the same rows as all other processes in a different order, which can deadlock."""
    store = DBStore(connection_string=url)
    names = [f"s{each}" for each in range(10)]
    names = names[number:] + names[:number]
    for _ in range(3):
        store.put_run_log(RunLog(run_id="run", tag=str(number), steps={name: step(name) for name in names}))
        store.add_branch_log(
            BranchLog(internal_name="s1.b", steps={f"s1.b.{name}": step(f"s1.b.{name}") for name in names}), "run"
        )
        store.set_run_config("run", dict.fromkeys(names, number))


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
def test_deadlocks_and_serialization_failures_are_retried(
    fragile_store: DBStore, fragile_database: Database, isolation: str
) -> None:
    if fragile_database.server.dialect == "mysql" and isolation == "SERIALIZABLE":
        pytest.skip("on MariaDB the store chooses READ COMMITTED itself")
    if fragile_database.server.kind == "postgresql":
        fragile_database.sql(
            f"ALTER DATABASE {fragile_database.name} SET default_transaction_isolation = '{isolation.lower()}'"
        )
    try:
        fragile_store.create_run_log("run")
        run_in_processes(8, put_all, fragile_database.url)
    finally:
        if fragile_database.server.kind == "postgresql":
            fragile_database.sql(f"ALTER DATABASE {fragile_database.name} RESET default_transaction_isolation")
    assert fragile_database.sql("SELECT attribute_type, COUNT(*) FROM db_log GROUP BY attribute_type ORDER BY 1") == [
        ("Branch", 1),
        ("RunLog", 1),
        ("Step", 20),
    ]


def set_all(number: int, url: str) -> None:
    """Set the same parameters as all other processes in a different order."""
    store = DBStore(connection_string=url)
    names = [f"x{each}" for each in range(10)]
    for each in range(20):
        store.set_parameters("run", dict.fromkeys(names[number:] + names[:number], each))


def count_deadlocks(database: Database) -> int:
    [[count]] = database.sql(
        "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'"
        if database.server.dialect == "mysql"
        else f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{database.name}'"
    )
    return int(count)


def test_set_parameters_in_any_order_does_not_deadlock(fragile_store: DBStore, fragile_database: Database) -> None:
    fragile_store.create_run_log("run")
    fragile_store.set_parameters("run", {f"x{each}": 0 for each in range(10)})
    before = count_deadlocks(fragile_database)
    run_in_processes(8, set_all, fragile_database.url)
    assert count_deadlocks(fragile_database) == before


def write_large(number: int, url: str) -> None:
    """Write the same rows as all other processes in a different order, in one statement or in several."""
    store = DBStore(connection_string=url)
    names = [f"x{each}" for each in range(4)]
    parameters = dict.fromkeys(names[number:] + names[:number], "x")
    for _ in range(5):
        store.put_run_log(RunLog(run_id="run", parameters=parameters))
        store.set_parameters("run", dict.fromkeys(parameters, "x" * 60_000))
    store.close()


def test_large_writes_in_any_order_do_not_deadlock(fragile_store: DBStore, fragile_database: Database) -> None:
    """The rows exist already: only those can be locked before they are written."""
    if fragile_database.server.dialect == "mysql":
        pytest.skip("MariaDB and MySQL lock rows in the order of an index")
    write_large(0, fragile_database.url)
    before = count_deadlocks(fragile_database)
    run_in_processes(4, write_large, fragile_database.url)
    assert count_deadlocks(fragile_database) == before
    assert fragile_store.get_parameters("run") == {f"x{each}": "x" * 60_000 for each in range(4)}


def create_many(number: int, url: str) -> int:
    store = DBStore(connection_string=url)
    created = 0
    for each in range(10):
        with contextlib.suppress(exceptions.RunLogExistsError):
            store.create_run_log(f"run-{each}", tag=str(number))
            created += 1
        store.set_parameters(f"run-{each}", {"a": number, "b": number})
    return created


def test_table_without_index_gets_no_duplicates(fragile_store: DBStore, fragile_database: Database) -> None:
    if fragile_database.server.dialect == "mysql":
        pytest.skip("on MariaDB the store chooses READ COMMITTED itself")
    fragile_store.create_run_log("run")
    fragile_store.close()
    for index in ("dblog_run_id_attribute_type_attribute_key", "dblog_run_id_created_at"):
        fragile_database.sql(f"DROP INDEX {index}")
    fragile_database.sql(
        f"ALTER DATABASE {fragile_database.name} SET default_transaction_isolation = 'repeatable read'"
    )
    try:
        assert sum(run_in_processes(4, create_many, fragile_database.url)) == 10
    finally:
        fragile_database.sql(f"ALTER DATABASE {fragile_database.name} RESET default_transaction_isolation")
    rows = fragile_database.sql("SELECT run_id, attribute_type, attribute_key FROM db_log")
    assert len(rows) == len(set(rows)) == 1 + 10 * 3


# Permanent errors


@pytest.mark.parametrize(
    ("change_url", "message"),
    [
        (lambda url: url.replace("tiger", "lion"), "authentication failed|Access denied"),
        (lambda url: url.replace("scott", "nobody"), "authentication failed|Access denied"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", "does not exist|Unknown database|Access denied"),
        (lambda url: url + "?no_such_option=1", "no_such_option"),
    ],
    ids=["wrong-password", "unknown-role", "unknown-database", "unknown-option"],
)
def test_permanent_errors_are_not_retried(
    fragile_database: Database, wait_messages: WaitMessages, change_url: Callable[[str], str], message: str
) -> None:
    with pytest.raises(peewee.OperationalError, match=message) as error:
        DBStore(connection_string=change_url(fragile_database.url)).get_run_log_by_id("run")
    assert not wait_messages.messages
    assert "tiger" not in str(error.value)
    assert "lion" not in str(error.value)


@pytest.mark.parametrize("value", ["x" * 20_000_000, '"' * 6_000_000], ids=["too-long", "too-long-when-escaped"])
def test_too_large_value_is_not_retried(
    fragile_store: DBStore, fragile_database: Database, wait_messages: WaitMessages, value: str
) -> None:
    if fragile_database.server.dialect != "mysql":
        pytest.skip("PostgreSQL takes up to 1 GB")
    fragile_store.create_run_log("run")
    with pytest.raises(InvalidValueError, match="Parameter 'x' of run 'run' has .*max_allowed_packet"):
        fragile_store.set_parameters("run", {"y": 1, "x": value})
    assert not wait_messages.messages
    assert fragile_store.get_parameters("run") == {}
    fragile_store.set_parameters("run", {"x": value[: len(value) // 2]})
    assert fragile_store.get_parameters("run") == {"x": value[: len(value) // 2]}


def test_full_disk_is_not_retried(sqlite_file: Any, wait_messages: WaitMessages) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run")
    database = store.database
    database.pragma("max_page_count", database.pragma("page_count") + 2)
    with pytest.raises(peewee.OperationalError, match="full"):
        store.set_parameters("run", {"small": 1, "large": "x" * 100_000})
    assert not wait_messages.messages
    assert store.get_parameters("run") == {}
    database.pragma("max_page_count", 1_000_000)
    store.set_parameters("run", {"large": "x" * 100_000})


def test_error_is_raised_after_retry_timeout(fragile_database: Database, wait_messages: WaitMessages) -> None:
    fragile_database.server.stop()
    with pytest.raises(peewee.OperationalError, match="(?s)Cannot connect.*gave up after retry_timeout, 5 s"):
        DBStore(connection_string=fragile_database.url, retry_timeout=5).get_run_log_by_id("run")
    assert len(wait_messages.messages) == 1
    assert wait_messages.messages[0].startswith("Retrying for up to 5 s. Cannot connect to ")
    assert "tiger" not in wait_messages.messages[0]


def test_retry_timeout_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="retry_timeout"):
        DBStore(retry_timeout="for ever").get_run_log_by_id("run")


# Errors of MariaDB and MySQL alone

ON_MYSQL = pytest.mark.parametrize(
    "private_database", [scheme for scheme in SERVERS if scheme.startswith("mysql")], indirect=True
)


def fail_inserts(database: Database, code: int, text: str) -> None:
    """Let the server raise an error at each INSERT, until the trigger `failing` is dropped."""
    database.sql(
        "CREATE TRIGGER failing BEFORE INSERT ON db_log FOR EACH ROW "
        f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = ?",
        text,
    )


@ON_MYSQL
@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1020, "Record has changed since last read in table 'db_log'"),
        (1180, "Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT"),
        (3032, "The server is currently in offline mode"),
        (3101, "Plugin instructed the server to rollback the current transaction."),
    ],
)
def test_mysql_transient_error_is_retried(
    fragile_store: DBStore, fragile_database: Database, wait_messages: WaitMessages, code: int, text: str
) -> None:
    fragile_store.create_run_log("run")
    fail_inserts(fragile_database, code, text)
    with in_background(lambda: fragile_store.set_parameters("run", {"x": 1})):
        assert wait_messages.has_message.wait(DEADLINE)
        fragile_database.sql("DROP TRIGGER failing")
    assert text in wait_messages.messages[0]
    assert fragile_store.get_parameters("run") == {"x": 1}


@ON_MYSQL
def test_mysql_full_disk_at_commit_is_not_retried(
    fragile_store: DBStore, fragile_database: Database, wait_messages: WaitMessages
) -> None:
    fragile_store.create_run_log("run")
    fail_inserts(fragile_database, 1180, "Got error 28 - 'No space left on device' during COMMIT")
    with pytest.raises(peewee.OperationalError, match="No space left on device"):
        fragile_store.set_parameters("run", {"x": 1})
    assert not wait_messages.messages


@ON_MYSQL
def test_mysql_session_has_short_lock_waits_and_no_snapshot_isolation(
    fragile_store: DBStore, fragile_database: Database
) -> None:
    fragile_store.create_run_log("run")
    names = "'innodb_lock_wait_timeout', 'innodb_snapshot_isolation'"
    rows = fragile_store.database.execute_sql(f"SHOW SESSION VARIABLES WHERE variable_name IN ({names})").fetchall()
    variables = dict(rows)
    assert variables["innodb_lock_wait_timeout"] == "5"
    assert variables.get("innodb_snapshot_isolation", "OFF") == "OFF"


def test_mysql_certificate_that_is_not_trusted_is_not_retried(wait_messages: WaitMessages) -> None:
    if "mysql+pymysql" not in SERVERS:
        pytest.skip("TEST_SERVER_TREE has no server for mysql+pymysql")
    # Not in tmp_path: pytest keeps other users, as the server's, out of it.
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        for each in ("server", "other"):
            files = ["-keyout", f"{folder}/{each}.key", "-out", f"{folder}/{each}.pem"]
            options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
            subprocess.run(["openssl", "req", *options, *files], check=True, stderr=subprocess.DEVNULL)
        (folder / "server.key").chmod(0o644)
        certificate = {"ssl_cert": f"{folder}/server.pem", "ssl_key": f"{folder}/server.key"}
        server = new_server(SERVERS["mysql+pymysql"], **certificate)
        stack.callback(server.remove)
        trusting = f"{server.database('mysql+pymysql').url}?ssl_ca={folder}/server.pem&ssl_verify_cert=true"
        store = DBStore(connection_string=trusting)
        store.create_run_log("run")
        store.close()
        with pytest.raises(peewee.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
            DBStore(connection_string=trusting.replace("server.pem", "other.pem")).get_run_log_by_id("run")
        assert not wait_messages.messages


def test_mysql_first_login_without_tls() -> None:
    """The server has not cached the password yet, so the client encrypts it with the server's RSA key."""
    if SERVERS.get("mysql+pymysql") != "mysql":
        pytest.skip("Needs MySQL in TEST_SERVER_TREE")
    server = new_server("mysql", tls_version="")
    try:
        database = server.database("mysql+pymysql")
        assert {row[0] for row in database.sql("SELECT plugin FROM mysql.user WHERE user = 'scott'")} == {
            "caching_sha2_password"
        }
        database.sql("FLUSH PRIVILEGES")
        store = DBStore(connection_string=database.url)
        store.create_run_log("run")
        [[_, cipher]] = store.database.execute_sql("SHOW SESSION STATUS LIKE 'Ssl_cipher'").fetchall()
        assert cipher == ""
        store.close()
    finally:
        server.remove()

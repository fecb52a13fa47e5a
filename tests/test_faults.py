"""What servers, networks and disks do to their clients: nothing is lost, doubled, or taken for 'not found'."""

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
from conftest import SERVERS, Project, new_server
from crowds import PROCESSES, at_once
from logs import step
from magnus import exceptions
from magnus.datastore import BranchLog, RunLog
from servers import Database

from magnus_peewee_store import DBStore

DEADLINE = 60


@pytest.fixture(scope="module", params=SERVERS)
def fragile(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database on a server that nobody else uses, for tests to stop, restart and crowd."""
    kind = SERVERS[request.param]
    server = new_server(kind, max_connections="20")
    try:
        yield server.database(request.param)
    finally:
        server.remove()


@pytest.fixture
def away(fragile: Database) -> Iterator[Database]:
    """The same, without the table."""
    yield fragile
    if fragile.server._process is None:
        fragile.server.start()
    fragile.sql("DROP TABLE IF EXISTS db_log")


@pytest.fixture
def faulty(away: Database) -> Iterator[DBStore]:
    store = DBStore(connection_string=away.url)
    yield store
    store.close()


class Waits(logging.Handler):
    """Notes when the store says that it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: List[str] = []
        self.one = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Waiting"):
            self.texts.append(record.getMessage())
            self.one.set()


@pytest.fixture
def waits() -> Iterator[Waits]:
    handler = Waits()
    logging.getLogger("magnus.db").addHandler(handler)
    yield handler
    logging.getLogger("magnus.db").removeHandler(handler)


def until(condition: Callable[[], Any]) -> Any:
    """Ask again and again, as there is no event of another process to wait for."""
    give_up = threading.Event()
    timer = threading.Timer(DEADLINE, give_up.set)
    timer.start()
    try:
        while not give_up.wait(0.01):
            answer = condition()
            if answer:
                return answer
        raise AssertionError("it did not come to pass")
    finally:
        timer.cancel()


@contextlib.contextmanager
def meanwhile(work: Callable[[], Any]) -> Iterator[List[Any]]:
    """Do work in a thread; at the end wait for it, and raise what it raised."""
    answers: List[Any] = []
    errors: List[BaseException] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield answers
    thread.join(2 * DEADLINE)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def sessions(database: Database) -> List[int]:
    server: Any = database.server
    if server.dialect == "mysql":
        rows = database.sql(f"SELECT id FROM {server.monitoring_schema}.processlist WHERE user = 'scott'")
    else:
        rows = database.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'scott'")
    return [number for (number,) in rows]


def end_session(database: Database, number: int) -> None:
    if database.server.dialect == "mysql":
        database.sql(f"KILL {number}")
    else:
        database.sql("SELECT pg_terminate_backend(?)", number)


# A server that goes and comes


def write_on(url: str, acknowledged: Any, stop: Any) -> None:
    """Write one step after the other, and a run log as a whole, until told to stop."""
    store = DBStore(connection_string=url)
    for number in itertools.count():
        if stop.is_set():
            break
        store.add_step_log(step(f"s{number}"), "run")
        store.set_parameters("run", {"a": number, "b": number})
        acknowledged.send(number)
    acknowledged.close()


@pytest.mark.parametrize("immediate", [False, True], ids=["fast", "immediate"])
def test_a_restart_of_the_server_loses_and_doubles_nothing(faulty: DBStore, away: Database, immediate: bool) -> None:
    faulty.create_run_log("run")
    stop = PROCESSES.Event()
    receiving, sending = PROCESSES.Pipe(duplex=False)
    writer = PROCESSES.Process(target=write_on, args=(away.url, sending, stop))
    writer.start()
    sending.close()
    last = -1
    for restart in range(3):
        while last < restart * 20 + 10:
            last = receiving.recv()
        away.server.restart(immediate)
    while last < 100:
        last = receiving.recv()
    stop.set()
    with contextlib.suppress(EOFError):
        while True:
            last = receiving.recv()
    writer.join()
    assert writer.exitcode == 0
    log = faulty.get_run_log_by_id("run", full=True)
    assert list(log.steps) == [f"s{number}" for number in range(last + 1)]
    assert log.parameters == {"a": last, "b": last}
    assert away.sql("SELECT COUNT(*) FROM db_log") == [(last + 1 + 3,)]


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
# A step that lasts until the test lets it go on.
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
def test_a_pipeline_goes_on_after_a_restart(project: Project, faulty: DBStore, away: Database, immediate: bool) -> None:
    process = start_pipeline(project, away)
    until(lambda: (project.folder / "paused").exists())
    away.server.restart(immediate)
    (project.folder / "go on").touch()
    check_pipeline(process, faulty)


def test_a_pipeline_waits_for_a_server_that_is_not_there_yet(project: Project, faulty: DBStore, away: Database) -> None:
    away.server.stop()
    (project.folder / "go on").touch()
    process = start_pipeline(project, away)
    lines = []
    for line in process.stdout:  # type: ignore[union-attr]
        lines.append(line)
        if "Waiting up to" in line:
            break
    away.server.start()
    check_pipeline(process, faulty)
    assert "".join(lines).count("Waiting up to") == 1


def test_a_pipeline_goes_on_after_its_session_was_ended(project: Project, faulty: DBStore, away: Database) -> None:
    process = start_pipeline(project, away)
    until(lambda: (project.folder / "paused").exists())
    for number in sessions(away):
        end_session(away, number)
    until(lambda: not sessions(away))
    (project.folder / "go on").touch()
    check_pipeline(process, faulty)


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
def test_every_call_outlives_the_end_of_its_session(
    faulty: DBStore, away: Database, waits: Waits, call: Callable[[DBStore], Any]
) -> None:
    faulty.create_run_log("run")
    faulty.set_parameters("run", {"x": 0})
    faulty.add_step_log(step("a"), "run")
    faulty.add_branch_log(BranchLog(internal_name="a.b"), "run")
    [session] = sessions(away)
    end_session(away, session)
    until(lambda: not sessions(away))
    call(faulty)
    assert len(waits.texts) == 1
    assert sessions(away) != [session]
    assert set(faulty.get_run_log_by_id("run", full=True).steps) == {"a"}


def test_without_patience_the_call_after_a_fault_is_served(faulty: DBStore, away: Database) -> None:
    impatient = DBStore(connection_string=away.url, retry_timeout=0)
    impatient.create_run_log("run")
    for number in sessions(away):
        end_session(away, number)
    until(lambda: not sessions(away))
    with pytest.raises(peewee.PeeweeException):
        impatient.get_run_log_by_id("run")
    assert impatient.get_run_log_by_id("run").run_id == "run"
    impatient.close()


def test_with_the_server_down_nothing_is_not_found(faulty: DBStore, away: Database) -> None:
    faulty.create_run_log("run")
    away.server.stop()
    impatient = DBStore(connection_string=away.url, retry_timeout=0)
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
            call(impatient)


def test_a_session_that_was_idle_too_long_is_opened_again(faulty: DBStore, away: Database) -> None:
    faulty.create_run_log("run")
    faulty.close()
    if away.server.dialect == "mysql":
        away.sql("SET GLOBAL wait_timeout = 1")
    else:
        away.sql(f"ALTER DATABASE {away.name} SET idle_session_timeout = '100ms'")
    try:
        faulty.set_parameters("run", {"x": 1})
        until(lambda: not sessions(away))
        faulty.set_parameters("run", {"x": 2})
    finally:
        if away.server.dialect == "mysql":
            away.sql("SET GLOBAL wait_timeout = 28800")
        else:
            away.sql(f"ALTER DATABASE {away.name} RESET idle_session_timeout")
    assert faulty.get_parameters("run") == {"x": 2}


def test_a_server_with_too_many_clients_is_waited_for(faulty: DBStore, away: Database, waits: Waits) -> None:
    faulty.create_run_log("run")
    faulty.close()
    crowd: List[DBStore] = []
    try:
        for _ in range(30):
            other = DBStore(connection_string=away.url, retry_timeout=0)
            try:
                other.get_run_log_by_id("run")
            except peewee.OperationalError:
                break
            crowd.append(other)
        assert 5 < len(crowd) < 30
        with meanwhile(lambda: faulty.set_parameters("run", {"x": 1})):
            assert waits.one.wait(DEADLINE)
            crowd.pop().close()
    finally:
        for other in crowd:
            other.close()
    assert faulty.get_parameters("run") == {"x": 1}


# A connection that dies between a write and its acknowledgement


class Proxy:
    """Hands a client's bytes on to a server, and the answers back; until told to swallow an answer and hang up."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.swallow_after = b""  # a client's words whose answer is lost
        self.swallowed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.server_port))
                doomed = threading.Event()
                for source, sink, asks in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pump, args=(source, sink, asks, doomed), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, asks: bool, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while True:
                words = source.recv(65536)
                if not words:
                    break
                if asks and self.swallow_after and self.swallow_after in words:
                    self.swallow_after = b""
                    doomed.set()
                elif not asks and doomed.is_set():
                    self.swallowed.set()
                    break
                sink.sendall(words)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.mark.parametrize("time_after_time", range(3))
@pytest.mark.parametrize(
    ("words", "call"),
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
def test_a_write_whose_acknowledgement_is_lost_is_done_once(
    faulty: DBStore, away: Database, words: bytes, call: Callable[[DBStore], Any], time_after_time: int
) -> None:
    faulty.create_run_log("run")
    proxy = Proxy(away.server.port)
    # Without TLS, which is not the test's: the proxy has to read the words.
    plain = "?sslmode=disable" if away.server.dialect == "postgresql" else "?ssl_disabled=true"
    distant = DBStore(connection_string=away.url.replace(f":{away.server.port}/", f":{proxy.port}/") + plain)
    try:
        distant.get_run_log_by_id("run")
        proxy.swallow_after = words
        call(distant)
        assert proxy.swallowed.is_set()
    finally:
        distant.close()
        proxy.close()
    rows = away.sql("SELECT run_id, attribute_type, attribute_key FROM db_log")
    assert len(rows) == len(set(rows))
    with pytest.raises(exceptions.RunLogExistsError):
        faulty.create_run_log("run")


# Somebody else's locks


def test_a_lock_of_somebody_elses_is_waited_for(faulty: DBStore, away: Database) -> None:
    faulty.create_run_log("run")
    server: Any = away.server
    other = server.administrator(away.name)
    cursor = other.cursor()
    if server.dialect == "mysql":
        cursor.execute("LOCK TABLES db_log WRITE")
        waiting = (
            f"SELECT 1 FROM {server.monitoring_schema}.processlist "
            "WHERE user = 'scott' AND state LIKE 'Waiting for table%'"
        )
        release = "UNLOCK TABLES"
    else:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE db_log")
        waiting = "SELECT 1 FROM pg_stat_activity WHERE usename = 'scott' AND wait_event_type = 'Lock'"
        release = "COMMIT"
    with meanwhile(lambda: faulty.set_parameters("run", {"x": 1})):
        until(lambda: away.sql(waiting))
        cursor.execute(release)
    other.close()
    assert faulty.get_parameters("run") == {"x": 1}


def put_all(number: int, url: str) -> None:
    """Write the same rows as all the others, in an order of its own: what deadlocks are made of."""
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
def test_deadlocks_and_serialization_failures_are_not_shown(faulty: DBStore, away: Database, isolation: str) -> None:
    if away.server.dialect == "mysql" and isolation == "SERIALIZABLE":
        pytest.skip("on MariaDB the store chooses READ COMMITTED itself")
    if away.server.kind == "postgresql":
        away.sql(f"ALTER DATABASE {away.name} SET default_transaction_isolation = '{isolation.lower()}'")
    try:
        faulty.create_run_log("run")
        at_once(8, put_all, away.url)
    finally:
        if away.server.kind == "postgresql":
            away.sql(f"ALTER DATABASE {away.name} RESET default_transaction_isolation")
    assert away.sql("SELECT attribute_type, COUNT(*) FROM db_log GROUP BY attribute_type ORDER BY 1") == [
        ("Branch", 1),
        ("RunLog", 1),
        ("Step", 20),
    ]


def set_all(number: int, url: str) -> None:
    """Set the same parameters as all the others, in an order of its own."""
    store = DBStore(connection_string=url)
    names = [f"x{each}" for each in range(10)]
    for each in range(20):
        store.set_parameters("run", dict.fromkeys(names[number:] + names[:number], each))


def test_who_sets_the_same_parameters_in_another_order_causes_no_deadlock(faulty: DBStore, away: Database) -> None:
    counted = (
        "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'"
        if away.server.dialect == "mysql"
        else f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{away.name}'"
    )
    faulty.create_run_log("run")
    faulty.set_parameters("run", {f"x{each}": 0 for each in range(10)})
    [[before]] = away.sql(counted)
    at_once(8, set_all, away.url)
    assert away.sql(counted) == [(before,)]


def create_many(number: int, url: str) -> int:
    store = DBStore(connection_string=url)
    created = 0
    for each in range(10):
        with contextlib.suppress(exceptions.RunLogExistsError):
            store.create_run_log(f"run-{each}", tag=str(number))
            created += 1
        store.set_parameters(f"run-{each}", {"a": number, "b": number})
    return created


def test_a_table_without_an_index_is_right_whatever_the_servers_isolation(faulty: DBStore, away: Database) -> None:
    if away.server.dialect == "mysql":
        pytest.skip("on MariaDB the store chooses READ COMMITTED itself")
    faulty.create_run_log("run")
    faulty.close()
    for index in ("dblog_run_id_attribute_type_attribute_key", "dblog_run_id_created_at"):
        away.sql(f"DROP INDEX {index}")
    away.sql(f"ALTER DATABASE {away.name} SET default_transaction_isolation = 'repeatable read'")
    try:
        assert sum(at_once(4, create_many, away.url)) == 10
    finally:
        away.sql(f"ALTER DATABASE {away.name} RESET default_transaction_isolation")
    rows = away.sql("SELECT run_id, attribute_type, attribute_key FROM db_log")
    assert len(rows) == len(set(rows)) == 1 + 10 * 3


# What does not pass is told at once


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda url: url.replace("tiger", "lion"), "authentication failed|Access denied"),
        (lambda url: url.replace("scott", "nobody"), "authentication failed|Access denied"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", "does not exist|Unknown database|Access denied"),
        (lambda url: url + "?no_such_option=1", "no_such_option"),
    ],
    ids=["wrong password", "unknown role", "unknown database", "unknown option"],
)
def test_what_is_wrong_for_good_is_told_at_once(
    away: Database, waits: Waits, change: Callable[[str], str], told: str
) -> None:
    with pytest.raises(peewee.OperationalError, match=told) as failure:
        DBStore(connection_string=change(away.url)).get_run_log_by_id("run")
    assert not waits.texts
    assert "tiger" not in str(failure.value)
    assert "lion" not in str(failure.value)


@pytest.mark.parametrize("value", ["x" * 20_000_000, '"' * 6_000_000], ids=["long", "longer as it is sent"])
def test_a_value_beyond_what_the_server_takes_is_told_at_once(
    faulty: DBStore, away: Database, waits: Waits, value: str
) -> None:
    if away.server.dialect != "mysql":
        pytest.skip("PostgreSQL takes up to 1 GB")
    faulty.create_run_log("run")
    with pytest.raises(peewee.DataError, match="Parameter x of the run run has .*max_allowed_packet"):
        faulty.set_parameters("run", {"y": 1, "x": value})
    assert not waits.texts
    assert faulty.get_parameters("run") == {}
    faulty.set_parameters("run", {"x": value[: len(value) // 2]})
    assert faulty.get_parameters("run") == {"x": value[: len(value) // 2]}


def test_a_full_disk_is_told_at_once(sqlite_file: Any, waits: Waits) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run")
    database = store.table.database
    database.pragma("max_page_count", database.pragma("page_count") + 2)
    with pytest.raises(peewee.OperationalError, match="full"):
        store.set_parameters("run", {"small": 1, "large": "x" * 100_000})
    assert not waits.texts
    assert store.get_parameters("run") == {}
    database.pragma("max_page_count", 1_000_000)
    store.set_parameters("run", {"large": "x" * 100_000})


def test_a_database_that_stays_away_is_told_in_the_end(away: Database, waits: Waits) -> None:
    away.server.stop()
    with pytest.raises(peewee.OperationalError, match="(?s)Cannot connect.* 5 s of retry_timeout"):
        DBStore(connection_string=away.url, retry_timeout=5).get_run_log_by_id("run")
    assert len(waits.texts) == 1
    assert waits.texts[0].startswith("Waiting up to 5 s. Cannot connect to ")
    assert "tiger" not in waits.texts[0]


def test_the_patience_is_a_number() -> None:
    with pytest.raises(ValueError, match="retry_timeout"):
        DBStore(retry_timeout="for ever").get_run_log_by_id("run")


# Errors of MariaDB and MySQL alone

ON_MYSQL = pytest.mark.parametrize("fragile", [each for each in SERVERS if each.startswith("mysql")], indirect=True)


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
def test_mysql_transient_error_is_retried(faulty: DBStore, away: Database, waits: Waits, code: int, text: str) -> None:
    faulty.create_run_log("run")
    fail_inserts(away, code, text)
    with meanwhile(lambda: faulty.set_parameters("run", {"x": 1})):
        assert waits.one.wait(DEADLINE)
        away.sql("DROP TRIGGER failing")
    assert text in waits.texts[0]
    assert faulty.get_parameters("run") == {"x": 1}


@ON_MYSQL
def test_mysql_full_disk_at_commit_is_not_retried(faulty: DBStore, away: Database, waits: Waits) -> None:
    faulty.create_run_log("run")
    fail_inserts(away, 1180, "Got error 28 - 'No space left on device' during COMMIT")
    with pytest.raises(peewee.OperationalError, match="No space left on device"):
        faulty.set_parameters("run", {"x": 1})
    assert not waits.texts


@ON_MYSQL
def test_mysql_session_has_short_lock_waits_and_no_snapshot_isolation(faulty: DBStore, away: Database) -> None:
    faulty.create_run_log("run")
    names = "'innodb_lock_wait_timeout', 'innodb_snapshot_isolation'"
    rows = faulty.table.database.execute_sql(f"SHOW SESSION VARIABLES WHERE variable_name IN ({names})").fetchall()
    variables = dict(rows)
    assert variables["innodb_lock_wait_timeout"] == "5"
    assert variables.get("innodb_snapshot_isolation", "OFF") == "OFF"


def test_mysql_certificate_that_is_not_trusted_is_not_retried(waits: Waits) -> None:
    if "mysql+pymysql" not in SERVERS:
        pytest.skip("TEST_SERVER_TREE has no server for mysql+pymysql")
    # Not in tmp_path: pytest keeps other users, as the server's, out of it.
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        for each in ("server", "other"):
            files = ["-keyout", f"{folder}/{each}.key", "-out", f"{folder}/{each}.pem"]
            new_key = [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=127.0.0.1",
            ]
            subprocess.run([*new_key, *files], check=True, stderr=subprocess.DEVNULL)
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
        assert not waits.texts


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
        [[_, cipher]] = store.table.database.execute_sql("SHOW SESSION STATUS LIKE 'Ssl_cipher'").fetchall()
        assert cipher == ""
        store.close()
    finally:
        server.remove()

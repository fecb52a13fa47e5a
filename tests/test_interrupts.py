"""Test calls that a signal interrupts: nothing acknowledged is lost, no answer is wrong, and the next call works."""

import faulthandler
import random
import signal
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set, Type

import peewee
import pytest
from concurrency import run_in_processes
from conftest import DRIVERS, SqliteFile, new_store
from logs import step

from magnus_peewee_store import DBStore, runs
from magnus_peewee_store.exceptions import CannotConnectError

SEED = 26
INTERRUPTS = 50  # of each kind
WATCHDOG = 120  # seconds
SCHEMES = ["sqlite", *DRIVERS]


class TimeIsUp(Exception):  # noqa: N818 - a common kind of name
    """What the handler of a time limit raises."""


KINDS: List[Type[BaseException]] = [KeyboardInterrupt, TimeIsUp, TimeoutError, SystemExit]


class Interrupts:
    """Raises an exception in the main thread after a while: KeyboardInterrupt by SIGINT, others by SIGALRM."""

    def __init__(self, kind: Type[BaseException]) -> None:
        self.kind = kind
        self.has_arrived = True
        self.number = signal.SIGINT if kind is KeyboardInterrupt else signal.SIGALRM
        signal.signal(self.number, self.handle)

    def start(self, delay: float) -> None:
        self.has_arrived = False
        if self.number == signal.SIGALRM:
            signal.setitimer(signal.ITIMER_REAL, delay)
        else:
            main = threading.main_thread().ident
            threading.Timer(delay, signal.pthread_kill, (main, self.number)).start()

    def handle(self, number: int, frame: Any) -> None:
        self.has_arrived = True
        self.place = "".join(traceback.format_stack(frame)[-12:])
        raise self.kind


class RunState:
    """What one run must hold, and what it may hold because of interrupted calls."""

    def __init__(self) -> None:
        self.parameters: Dict[str, str] = {}
        self.possible_parameters: Dict[str, str] = {}
        self.tags: Set[str] = set()
        self.statuses = {"PROCESSING"}

    def check(self, store: DBStore, run_id: str) -> None:
        """Compare the run with what the store reads."""
        parameters = store.get_parameters(run_id)
        assert self.parameters.items() <= parameters.items(), f"lost: {self.parameters.items() - parameters.items()}"
        assert parameters.items() <= self.possible_parameters.items()
        run = runs.read_run(store, run_id)
        assert run.run_log.run_id == run_id and run.run_log.status in self.statuses
        assert self.tags <= set(run.tags), f"lost: {self.tags - set(run.tags)}"
        assert run.run_log.steps["a"].message.endswith(run_id) or "FAIL" in self.statuses


class Caller:
    """Makes random calls. Each value that it writes is written once and names its run, so a wrong answer is noticed."""

    def __init__(self, store: DBStore, rng: random.Random) -> None:
        self.store = store
        self.rng = rng
        self.states: Dict[str, RunState] = {}
        self.unfinished: List[str] = []
        self.count = 0
        self.calls = (self.set_parameters, self.get_parameters, self.tag, self.search, self.end, self.mark_failed)

    def call(self) -> None:
        """Make one call."""
        while len(self.unfinished) < 3:
            run_id = f"run-{self.next()}"
            self.store.create_run_log(run_id, status="PROCESSING")
            self.store.add_step_log(step("a", status="PROCESSING", message=run_id), run_id)
            self.states[run_id] = RunState()
            self.unfinished.append(run_id)
        self.rng.choice(self.calls)(self.rng.choice(self.unfinished))

    def next(self) -> int:
        self.count += 1
        return self.count

    def set_parameters(self, run_id: str) -> None:
        names = [f"p{self.next()}" for _ in range(self.rng.randint(1, 3))]
        parameters = {name: f"{name} of {run_id}" for name in names}
        self.states[run_id].possible_parameters.update(parameters)
        self.store.set_parameters(run_id, parameters)
        self.states[run_id].parameters.update(parameters)

    def get_parameters(self, run_id: str) -> None:
        self.states[run_id].check(self.store, run_id)

    def tag(self, run_id: str) -> None:
        tag = f"tag {self.next()}"
        runs.tag_run(self.store, run_id, tag)
        self.states[run_id].tags.add(tag)

    def search(self, run_id: str) -> None:
        assert [run.run_id for run in runs.search(self.store, f"run_id={run_id}")] == [run_id]

    def end(self, run_id: str) -> None:
        self.change_status(run_id, "SUCCESS", lambda: self.store.update_run_log_status(run_id, "SUCCESS"))

    def mark_failed(self, run_id: str) -> None:
        self.change_status(run_id, "FAIL", lambda: runs.mark_failed(self.store, run_id))

    def change_status(self, run_id: str, status: str, call: Callable[[], Any]) -> None:
        self.unfinished.remove(run_id)
        self.states[run_id].statuses = {"PROCESSING", status}
        call()
        self.states[run_id].statuses = {status}


def interrupt_calls(number: int, url: str) -> Dict[str, RunState]:
    """Interrupt calls at random moments, and return what the runs must hold."""
    faulthandler.dump_traceback_later(WATCHDOG, exit=True)
    rng = random.Random(SEED)
    with closing(DBStore(connection_string=url)) as store:
        caller = Caller(store, rng)
        caller.call()
        for kind in KINDS:
            interrupts = Interrupts(kind)
            start = time.monotonic()
            for _ in range(5):
                caller.call()
            longest_delay = time.monotonic() - start
            for _ in range(INTERRUPTS):
                if rng.random() < 0.7:  # Otherwise the interrupt may arrive while the store connects.
                    caller.call()
                try:
                    interrupts.start(rng.uniform(0, longest_delay))
                    while not interrupts.has_arrived:
                        caller.call()
                except kind:
                    continue
                # Any code may catch an OSError where it expects one. Python ignores exceptions in __del__, and replaces
                # those that arrive while it writes the message of another error, as int() does.
                is_in_database = "magnus_peewee_store/db/" in interrupts.place and "__del__" not in interrupts.place
                assert kind is TimeoutError or not is_in_database, f"{kind.__name__} was swallowed:\n{interrupts.place}"
        for run_id, state in caller.states.items():
            state.check(store, run_id)
    faulthandler.cancel_dump_traceback_later()
    return caller.states


@pytest.fixture(params=SCHEMES)
def url(request: pytest.FixtureRequest, tmp_path: Path, server_databases: Any) -> Iterator[str]:
    """Return a connection string for each driver."""
    if request.param == "sqlite":
        yield SqliteFile(tmp_path).url
        return
    database = server_databases(request.param)
    yield database.url
    database.sql("DROP TABLE IF EXISTS db_log")


def test_interrupted_calls_lose_nothing(url: str) -> None:
    print(f"seed: {SEED}")
    [states] = run_in_processes(1, interrupt_calls, url)
    assert len(states) > 10
    with new_store(url) as store:
        for run_id, state in states.items():
            state.check(store, run_id)


def test_interrupted_calls_lose_nothing_in_memory() -> None:
    print(f"seed: {SEED}")
    run_in_processes(1, interrupt_calls, "sqlite:///:memory:")


def read_parameters(number: int, url: str) -> Any:
    with new_store(url) as store:
        return store.get_parameters("run")


def test_interrupt_while_waiting_for_the_lock_loses_nothing(sqlite_file: SqliteFile) -> None:
    with new_store(sqlite_file.url, retry_timeout=60) as store, new_store(sqlite_file.url) as holder:
        store.create_run_log("run", status="PROCESSING")
        main = threading.get_ident()
        has_lock, is_waiting = threading.Event(), threading.Event()

        def hold_lock() -> None:
            with holder.database.atomic():
                has_lock.set()
                while not is_waiting.is_set():
                    # peewee's `begin` is the innermost frame while SQLite waits for the lock.
                    if sys._current_frames()[main].f_code.co_name == "begin":
                        is_waiting.set()
                signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=holder.database.retry, args=(hold_lock,))
        thread.start()
        has_lock.wait()
        with pytest.raises(KeyboardInterrupt):
            runs.mark_failed(store, "run")
        thread.join()
        store.set_parameters("run", {"a": 1})
        assert run_in_processes(1, read_parameters, sqlite_file.url) == [{"a": 1}]


@pytest.fixture
def memory_store() -> Iterator[DBStore]:
    with new_store("sqlite:///:memory:") as store:
        store.create_run_log("run")
        store.set_parameters("run", {"a": 1})
        yield store


def test_interrupted_transaction_is_rolled_back_in_memory(memory_store: DBStore) -> None:
    database = memory_store.database

    def interrupted() -> None:
        database.begin()  # peewee does not know of this transaction, as if it were interrupted while it begins one.
        database.execute_sql("DELETE FROM db_log")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.retry(interrupted)
    assert memory_store.get_parameters("run") == {"a": 1}
    memory_store.update_run_log_status("run", "FAIL")
    assert not database.connection().in_transaction


def test_failing_rollback_does_not_hide_the_interrupt(sqlite_file: SqliteFile) -> None:
    with new_store(sqlite_file.url) as store:
        store.create_run_log("run")
        database = store.database

        def interrupted() -> None:
            with database.atomic():
                database.connection().rollback()
                raise TimeIsUp

        with pytest.raises(TimeIsUp):
            database.retry(interrupted)
        store.set_parameters("run", {"a": 1})
        assert store.get_parameters("run") == {"a": 1}


def test_interrupt_that_the_driver_has_replaced_is_not_rolled_back(sqlite_file: SqliteFile) -> None:
    """mysql-connector takes a TimeoutError for its own. A rollback would wait for ever for its answer."""
    with new_store(sqlite_file.url) as store:
        database = store.database

        def interrupted() -> None:
            try:
                with database.atomic():
                    try:
                        raise TimeIsUp
                    except TimeIsUp as error:
                        raise peewee.OperationalError("Timeout") from error
            finally:
                assert database.is_closed()

        with pytest.raises(TimeIsUp):
            database.retry(interrupted)


def test_errors_are_retried_while_the_caller_handles_an_interrupt(memory_store: DBStore) -> None:
    def fail_once() -> int:
        if memory_store.database.attempt == 0:
            raise CannotConnectError("starting up", is_transient=True)
        return memory_store.database.attempt

    memory_store.database.retry_timeout = 60
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert memory_store.database.retry(fail_once) == 1


def test_call_in_a_signal_handler_does_not_tear_a_transaction(sqlite_file: SqliteFile) -> None:
    with new_store(sqlite_file.url, retry_timeout=60) as store:
        store.create_run_log("run")
        database = store.database

        def write() -> None:
            attempt = database.attempt
            with database.atomic():
                database.execute_sql('UPDATE db_log SET attribute_value = \'{"run_id": "run", "tag": "x"}\'')
                if attempt == 0:
                    store.set_parameters("run", {"a": 1})  # as a signal handler would do
                database.execute_sql("UPDATE db_log SET attribute_type = 'Run' WHERE attribute_type = 'RunLog'")
                database.execute_sql("UPDATE db_log SET attribute_type = 'RunLog' WHERE attribute_type = 'Run'")

        database.retry(write)
        assert store.get_run_log_by_id("run").tag == "x"
        assert "a" in store.get_parameters("run")

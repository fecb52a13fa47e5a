"""How long a call takes to notice that its server's host has vanished without a word."""

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from typing import Iterator, List, Tuple

import peewee

from benchmarks.databases import Database
from benchmarks.timing import Comparison, Settings
from magnus_peewee_store import DBStore
from tests.hosts import Host, why_no_hosts

# By database, the schemes with the module of each driver, and a statement that waits.
DRIVERS = {
    "postgresql": [("postgresql+psycopg", "psycopg"), ("postgresql+psycopg2", "psycopg2")],
    "mariadb": [("mysql+pymysql", "pymysql"), ("mysql+mysqlconnector", "mysql")],
}
WAIT = {"postgresql": "SELECT pg_sleep(3600)", "mariadb": "SELECT SLEEP(3600)"}
PAUSE = 2.0  # seconds until all waiting statements have begun
LIMIT = 45.0  # seconds


def fail(store: DBStore, statement: str) -> float:
    """Execute a statement on a vanishing host. Return when it fails."""
    with contextlib.suppress(peewee.PeeweeException):
        store.database.try_once(lambda: store.database.execute_sql(statement), timeout=0)
    return time.monotonic()


def vanished_hosts(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure calls that wait for an answer, and calls that begin afterwards. All calls are made at the same time."""
    if why_no_hosts():
        return
    schemes = [scheme for scheme, module in DRIVERS[database.name] if find_spec(module)]
    with contextlib.ExitStack() as stack:
        host = Host(database.server)
        stack.callback(host.remove)
        threads = stack.enter_context(ThreadPoolExecutor(len(schemes) * settings.rounds * 2))
        waiting: List[Tuple[str, Future[float]]] = []
        idle: List[Tuple[str, DBStore]] = []
        for scheme in schemes * settings.rounds:
            url = host.url(database.server.database(scheme))
            first, second = (stack.enter_context(contextlib.closing(DBStore(connection_string=url))) for _ in range(2))
            waiting.append((scheme, threads.submit(fail, first, WAIT[database.name])))
            second.database.retry(second.database.now)
            idle.append((scheme, second))
        time.sleep(PAUSE)
        host.vanish()
        start = time.monotonic()
        beginning = [(scheme, threads.submit(fail, store, "SELECT 1")) for scheme, store in idle]
        for workload, calls in (("a call that waits", waiting), ("a call that begins afterwards", beginning)):
            for scheme in schemes:
                samples = [call.result() - start for name, call in calls if name == scheme]
                rounds = [{scheme: sample, "a host that answers": 0.0} for sample in samples]
                yield Comparison(
                    f"{workload} notices a vanished host",
                    database,
                    rounds,
                    "a host that answers",
                    store=scheme,
                    has_ratio=False,
                    at_most=LIMIT,
                )

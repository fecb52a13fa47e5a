"""Test hosts that vanish without a word, as at a power failure: calls notice it, and still have their retries."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Iterator, List

import pytest
from conftest import DRIVERS, SERVERS, new_server
from hosts import Host, why_no_hosts
from servers import Database
from test_clusters import start_pair, start_writers, store_on, stored_rows
from test_faults import DEADLINE, until

from magnus_peewee_store import DBStore
from magnus_peewee_store.db.base import SILENCE_TIMEOUT

pytestmark = pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts() or "-")

SLEEP = {"postgresql": "SELECT pg_sleep(3600)", "mysql": "SELECT SLEEP(3600)"}


class RetryCounter(logging.Handler):
    """Sets `is_complete` when this many calls retry."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.missing = expected
        self.is_complete = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Retrying"):
            self.missing -= 1
            if not self.missing:
                self.is_complete.set()


@pytest.fixture
def hosts() -> Iterator[List[Host]]:
    """Return a host for each kind of server."""
    with ExitStack() as stack:
        hosts = []
        for kind in sorted(set(DRIVERS.values())):
            server = new_server(kind)
            stack.callback(server.remove)
            hosts.append(Host(server))
            stack.callback(hosts[-1].remove)
        yield hosts


def test_calls_notice_a_vanished_host_and_retry(hosts: List[Host]) -> None:
    """A call may be sending a request, or waiting for an answer. All drivers wait at the same time."""
    by_kind = {host.server.kind: host for host in hosts}
    counter = RetryCounter(2 * len(DRIVERS))
    with ExitStack() as stack:
        logging.getLogger("magnus.db").addHandler(counter)
        stack.callback(logging.getLogger("magnus.db").removeHandler, counter)
        threads = stack.enter_context(ThreadPoolExecutor(2 * len(DRIVERS)))

        def call(store: DBStore, statement: str) -> Any:
            def work() -> Any:
                return store.database.execute_sql("SELECT 2" if store.database.attempt else statement).fetchall()

            return threads.submit(store.database.retry, work)

        results = []
        senders = []
        for scheme, kind in DRIVERS.items():
            host = by_kind[kind]
            database = host.server.database(scheme)
            sending, waiting = (
                stack.enter_context(store_on(host.url(database), retry_timeout=SILENCE_TIMEOUT / 3)) for _ in range(2)
            )
            for store in (sending, waiting):
                store.create_run_log(f"run {id(store)}")
            results.append(call(waiting, SLEEP[database.server.dialect]))
            until(partial(is_sleeping, database))
            senders.append(sending)
        for host in hosts:
            host.vanish()
        results += [call(store, "SELECT 1") for store in senders]
        has_noticed = counter.is_complete.wait(3 * SILENCE_TIMEOUT)
        for host in hosts:
            host.appear()
        assert has_noticed, [result.exception(1) for result in results if result.done()]
        assert [[tuple(row) for row in result.result(DEADLINE)] for result in results] == [[(2,)]] * len(results)


def is_sleeping(database: Database) -> bool:
    if database.server.dialect == "mysql":
        query = "SELECT 1 FROM information_schema.processlist WHERE info LIKE '%SLEEP(3600)' AND db = ?"
    else:
        query = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(3600)' AND datname = ?"
    return bool(database.sql(query, database.name))


def test_failover_after_the_host_of_the_primary_has_vanished() -> None:
    """Replication is synchronous, and the clients notice the vanished host after two seconds instead of thirty."""
    if "postgresql+psycopg" not in SERVERS:
        pytest.skip("TEST_SERVER_TREE has no server for postgresql+psycopg")
    with start_pair("postgresql+psycopg") as pair, ExitStack() as stack:
        host = Host(pair.primary)
        stack.callback(host.remove)
        url = pair.url.replace("@127.0.0.1", f"@{host.address}")
        url += "&tcp_user_timeout=2000&keepalives_idle=1&keepalives_interval=1&connect_timeout=2"
        with store_on(url) as store:
            store.create_run_log("run")
        promoted = pair.database.on(pair.standby)
        with start_writers([url] * 4) as running_writers:
            running_writers.wait_for_more_writes(pair.database)
            host.vanish()
            pair.primary.stop(immediate=True)
            pair.standby.promote()
            running_writers.wait_for_more_writes(promoted)
            running_writers.stop()
        assert stored_rows(promoted) == running_writers.acknowledged_rows()

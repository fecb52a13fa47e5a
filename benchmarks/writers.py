"""Measure processes that write one run at the same time: many of them, and some beside the heartbeats of others."""

import itertools
import random
import time
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

from magnus import context
from magnus.datastore import StepLog

from benchmarks import logs
from benchmarks.databases import Database
from benchmarks.raw import RawDriver, insert_run
from benchmarks.stores import THIS_STORE, db_store, prepare_step_calls
from benchmarks.timing import Comparison, Settings, shuffled
from magnus_peewee_store import DBStore
from magnus_peewee_store.store import HEARTBEAT_INTERVAL
from tests.concurrency import FORKSERVER, run_in_processes

FORKSERVER.set_forkserver_preload(["benchmarks.stores"])

RUN = "concurrent"
PREPARED_STEPS = 200  # Steps per process. A process that has written all of them starts again.
WITHOUT = "without heartbeats"
# Heartbeats are so rare that other load on the machine would hide their cost. So there are ten times as many, and the
# goal, at most 3 % of the throughput, is ten times as large, too.
FACTOR = 10
WINDOWS = 6  # per round, with and without heartbeats


class Throughput(NamedTuple):
    """The result of one process, or of all processes together."""

    steps_per_second: float
    slowest_call: float


def many_processes(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure many processes that write one run at the same time."""
    makers: Dict[str, Callable[[str], Any]] = {THIS_STORE: db_store, database.raw_driver_name: RawDriver}
    processes = settings.size(16)
    workload = f"{processes} processes, one run"
    steps, slowest = [], []
    for _ in range(settings.rounds):
        results: Dict[str, Throughput] = {}
        for name in shuffled(makers):
            url = _new_url_with_run(database)
            results[name] = write_concurrently(makers[name], url, processes, settings.seconds)
        steps.append({name: each.steps_per_second for name, each in results.items()})
        slowest.append({name: each.slowest_call for name, each in results.items()})
    yield Comparison(workload, database, steps, database.raw_driver_name, unit="steps/s", at_least=0.7)
    at_most = 2.0 if database.name == "sqlite" else None
    workload += ": slowest call"
    yield Comparison(workload, database, slowest, database.raw_driver_name, has_ratio=False, at_most=at_most)


def heartbeats(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure processes that write steps while other processes have heartbeats, and while they have none."""
    writers, others = 4, settings.size(50)
    url = _new_url_with_run(database)
    stop, has_heartbeats = FORKSERVER.Event(), FORKSERVER.Event()
    ready: Any = FORKSERVER.Barrier(others + 1)
    processes = [
        FORKSERVER.Process(target=_have_heartbeats, args=(url, has_heartbeats, ready, stop)) for _ in range(others)
    ]
    for process in processes:
        process.start()
    ready.wait()
    rounds = []
    try:
        for _ in range(settings.rounds):
            rates: Dict[str, List[float]] = {THIS_STORE: [], WITHOUT: []}
            for _ in range(1 if settings.is_quick else WINDOWS):
                for name in shuffled(rates):
                    (has_heartbeats.set if name == THIS_STORE else has_heartbeats.clear)()
                    result = write_concurrently(db_store, url, writers, settings.seconds)
                    rates[name].append(result.steps_per_second)
            rounds.append({name: sum(each) / len(each) for name, each in rates.items()})
    finally:
        stop.set()
        for process in processes:
            process.join()
    workload = f"{writers} processes write, {others} have {FACTOR} times the heartbeats"
    yield Comparison(workload, database, rounds, WITHOUT, unit="steps/s", at_least=1 - 0.03 * FACTOR)


def _new_url_with_run(database: Database) -> str:
    url = database.new_url_with_table()
    insert_run(url, logs.run_log(RUN, 1))
    return url


def write_concurrently(make: Callable[[str], Any], url: str, processes: int, seconds: float) -> Throughput:
    """Write steps of one run from many processes at the same time, with six calls per step.

    Args:
        make: Creates the store of each process from the URL.
        url: The URL of a database with the run.
        processes: The number of processes.
        seconds: How long each process writes.

    Raises:
        AssertionError: If a call raises.
    """
    results = run_in_processes(processes, _write_steps, make, url, seconds, FORKSERVER.Barrier(processes))
    rates, slowest = zip(*results)
    return Throughput(sum(rates), max(slowest))


def _write_steps(number: int, make: Callable[[str], Any], url: str, seconds: float, ready_barrier: Any) -> Throughput:
    store = make(url)
    first, *other_steps = (
        prepare_step_calls(store, RUN, (number + 1) * PREPARED_STEPS + step) for step in range(PREPARED_STEPS)
    )
    for call in first:
        call()
    steps, slowest = 0, 0.0
    ready_barrier.wait()
    start = before = time.perf_counter()
    for calls in itertools.cycle(other_steps):
        for call in calls:
            call()
            after = time.perf_counter()
            slowest, before = max(slowest, after - before), after
        steps += 1
        if before - start > seconds:
            break
    store.close()
    return Throughput(steps / (before - start), slowest)


def _have_heartbeats(url: str, has_heartbeats: Any, ready: Any, stop: Any) -> None:
    context.run_context = SimpleNamespace(run_id=RUN, secrets_handler=None)
    store = DBStore(connection_string=url, heartbeat=10 * HEARTBEAT_INTERVAL)  # No heartbeat but those below.
    store.add_step_log(StepLog(name="a", internal_name="a"), RUN)
    ready.wait()
    while not stop.wait(random.uniform(0, 2 * HEARTBEAT_INTERVAL / FACTOR)):
        if has_heartbeats.is_set():
            store._heartbeat._beat()
    store.close()

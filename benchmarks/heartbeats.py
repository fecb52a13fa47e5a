"""Measure what the heartbeats of many processes cost the processes that write to the same SQLite file."""

import itertools
import random
import time
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List

from magnus import context
from magnus.datastore import RunLog, StepLog

from benchmarks.databases import Database
from benchmarks.results import Result
from benchmarks.stores import THIS_STORE, DBStoreAdapter
from benchmarks.timing import Rounds, Settings, shuffled
from magnus_peewee_store import DBStore
from magnus_peewee_store.store import HEARTBEAT_INTERVAL
from tests.concurrency import FORKSERVER

WITHOUT = "without heartbeats"
WRITERS = 4
# Heartbeats are so rare that other load on the machine would hide their cost. So there are ten times as many, and the
# goal, at most 3 % of the throughput, is ten times as large, too.
FACTOR = 10
WINDOWS = 6  # per round and kind


def heartbeats(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure processes that write steps while other processes have heartbeats, and while they have none."""
    if database.name != "sqlite":
        return  # A server has many writers at a time.
    url = database.new_url_with_table()
    stop, has_heartbeats = FORKSERVER.Event(), FORKSERVER.Event()
    ready: Any = FORKSERVER.Barrier(WRITERS + settings.idle_processes + 1)
    counts = [FORKSERVER.Value("L", 0) for _ in range(WRITERS)]
    store = DBStore(connection_string=url)
    store.put_run_log(RunLog(run_id="run", status="PROCESSING"))
    store.close()
    processes = [
        FORKSERVER.Process(target=_write_steps, args=(url, number, counts[number], ready, stop))
        for number in range(WRITERS)
    ]
    processes += [
        FORKSERVER.Process(target=_have_heartbeats, args=(url, has_heartbeats, ready, stop))
        for _ in range(settings.idle_processes)
    ]
    for process in processes:
        process.start()
    ready.wait()
    title = f"{WRITERS} processes write, {settings.idle_processes} have {FACTOR} times the heartbeats"
    rounds = Rounds(title, database, "steps/s")
    try:
        for _ in range(settings.rounds):
            steps: Dict[str, List[int]] = {THIS_STORE: [], WITHOUT: []}
            for _ in range(WINDOWS):
                for name in shuffled(steps):
                    (has_heartbeats.set if name == THIS_STORE else has_heartbeats.clear)()
                    before = sum(count.value for count in counts)
                    time.sleep(settings.seconds)
                    steps[name].append(sum(count.value for count in counts) - before)
            rounds.add({name: sum(numbers) / WINDOWS / settings.seconds for name, numbers in steps.items()})
    finally:
        stop.set()
        for process in processes:
            process.join()
    yield rounds.compare(WITHOUT, at_least=1 - 0.03 * FACTOR)


def _write_steps(url: str, number: int, count: Any, ready: Any, stop: Any) -> None:
    writer = DBStoreAdapter(url)
    steps = [writer.prepare_step_calls("run", number * 1000 + step) for step in range(100)]
    ready.wait()
    for calls in itertools.cycle(steps):
        for call in calls:
            call()
        count.value += 1
        if stop.is_set():
            break
    writer.close()


def _have_heartbeats(url: str, has_heartbeats: Any, ready: Any, stop: Any) -> None:
    context.run_context = SimpleNamespace(run_id="run", secrets_handler=None)
    store = DBStore(connection_string=url, heartbeat=10 * HEARTBEAT_INTERVAL)  # No heartbeat but those below.
    store.add_step_log(StepLog(name="a", internal_name="a"), "run")
    ready.wait()
    while not stop.wait(random.uniform(0, 2 * HEARTBEAT_INTERVAL / FACTOR)):
        if has_heartbeats.is_set():
            store._heartbeat._beat()
    store.close()

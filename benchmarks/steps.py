"""Measure calls of the store: the six calls of a step, 100 parameters, a full run log."""

import itertools
import random
import time
from functools import partial
from typing import Any, Callable, Dict, Iterator

from magnus.datastore import RunLog

from benchmarks import logs
from benchmarks.databases import PSYCOPG2, RAM_DISK, Database
from benchmarks.large_runs import map_of
from benchmarks.raw import RawDriver, RawDriverAndPydantic, insert_run
from benchmarks.stores import SQLALCHEMY, THIS_STORE, Call, db_store, prepare_step_calls, store_makers
from benchmarks.timing import Comparison, Settings, time_in_turns

RUN = "run"
WARM_UP = 6  # psycopg prepares a statement when it is used for the sixth time.


def prepare_steps(store: Any, first: int) -> Callable[[], Call]:
    """Return a function that prepares the calls of the next step each time."""
    numbers = itertools.count(first)

    def prepare() -> Call:
        calls = prepare_step_calls(store, RUN, next(numbers))

        def step() -> None:
            for call in calls:
                call()

        return step

    return prepare


def warm_up(store: Any) -> None:
    """Connect and prepare statements, with calls on another run."""
    store.put_run_log(logs.run_log("warm-up", 1))
    for number in range(1, WARM_UP + 1):
        for call in prepare_step_calls(store, "warm-up", number):
            call()


def step(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure the six calls of a step."""
    # On a RAM disk, the disk's wait does not hide what the store costs, and CPU time is all the time.
    is_on_disk = database.name != RAM_DISK
    makers = store_makers(database)
    steps = settings.size(1000)
    rounds = []
    for _ in range(settings.rounds):
        stores = {name: make() for name, make in makers.items()}
        for store in stores.values():
            warm_up(store)
            store.put_run_log(logs.run_log(RUN, steps))
        preparers = {name: prepare_steps(store, steps) for name, store in stores.items()}
        rounds.append(time_in_turns(preparers, clock=time.perf_counter if is_on_disk else time.process_time))
        for store in stores.values():
            if hasattr(store, "close"):
                store.close()
    compare = partial(Comparison, f"a step's six calls, {steps:,} steps in the run", database, rounds)
    raw, raw_and_pydantic, *others = list(makers)[1:]
    yield compare(raw, at_most=1.4 if is_on_disk and database.name != PSYCOPG2 else None)
    yield compare(raw_and_pydantic, at_most=None if is_on_disk else 1.9)
    goals = {SQLALCHEMY: 0.1, "chunked-fs": 0.167} if database.name == "sqlite" else {}
    for name in others:
        yield compare(name, at_most=goals.get(name))


def parameters(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure one call that sets 100 new parameters."""
    runs = itertools.count()

    def prepare(store: Any, written: Any) -> Call:
        run_id = f"run{next(runs)}"
        store.put_run_log(RunLog(run_id=run_id))
        return partial(store.set_parameters, run_id, written)

    store = db_store(database.new_url_with_table())
    raw_driver = RawDriver(database.new_url_with_table())
    values = logs.parameters(100)
    preparers = {
        THIS_STORE: partial(prepare, store, values),
        database.raw_driver_name: partial(prepare, raw_driver, raw_driver.prepare(values)),
    }
    time_in_turns(preparers, 1, WARM_UP)
    rounds = [time_in_turns(preparers) for _ in range(settings.rounds)]
    store.close()
    raw_driver.close()
    yield Comparison("set_parameters of 100", database, rounds, database.raw_driver_name, at_most=1.5)


def full_run_log(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure reading the full run log of a map."""
    branches = settings.size(5000)
    url = database.new_url_with_table()
    insert_run(url, map_of(RUN, branches, random.Random(0)))
    raw_name = f"{database.raw_driver_name} and pydantic"
    stores: Dict[str, Any] = {THIS_STORE: db_store(url), raw_name: RawDriverAndPydantic(url)}
    preparers = {name: partial(partial, store.get_run_log_by_id, RUN, full=True) for name, store in stores.items()}
    time_in_turns(preparers, 1, 1)
    rounds = [time_in_turns(preparers, 2, 1, database.clock_of_reads) for _ in range(settings.rounds)]
    for store in stores.values():
        store.close()
    yield Comparison(f"full run log of {2 * branches + 1:,} steps", database, rounds, raw_name, at_most=1.3)

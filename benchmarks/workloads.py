"""Workloads that run in this process, or in many concurrent processes."""

import itertools
from functools import partial
from typing import Callable, Dict, Iterator, List

from magnus.datastore import RunLog

from benchmarks import logs
from benchmarks.concurrent_writers import write_concurrently
from benchmarks.databases import RAM_DISK, Database, insert_other_runs, insert_runs
from benchmarks.results import Comparison, Point, Result
from benchmarks.stores import (
    SQLALCHEMY,
    THIS_STORE,
    AnyStore,
    Call,
    DBStoreAdapter,
    RawDriver,
    store_makers,
)
from benchmarks.timing import Rounds, Settings, shuffled, time_in_turns
from magnus_peewee_store import DBStore
from magnus_peewee_store.runs import list_runs, read_run

RUN = "run"
WARM_UP = 6  # psycopg prepares a statement when it is used for the sixth time.


def prepare_steps(writer: AnyStore, first: int) -> Callable[[], Call]:
    """Return a function that prepares the calls of the next step each time."""
    numbers = itertools.count(first)

    def prepare() -> Call:
        calls = writer.prepare_step_calls(RUN, next(numbers))

        def step() -> None:
            for call in calls:
                call()

        return step

    return prepare


def warm_up(writer: AnyStore) -> None:
    """Connect and prepare statements, with calls on another run."""
    writer.write_run_log(logs.run_log("warm-up", 1))
    for number in range(1, WARM_UP + 1):
        for call in writer.prepare_step_calls("warm-up", number):
            call()


def step(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure the six calls of a step in runs of different sizes."""
    makers = store_makers(database)
    for size in settings.sizes:
        is_compared = size in settings.compared_sizes
        rounds = Rounds(f"a step's six calls, {size:,} steps in the run", database)
        for _ in range(settings.rounds):
            writers = {name: make() for name, make in makers.items()}
            for writer in writers.values():
                warm_up(writer)
                writer.write_run_log(logs.run_log(RUN, size))
            preparers = {name: prepare_steps(writer, size) for name, writer in writers.items()}
            rounds.add(time_in_turns(preparers, settings.turns if is_compared else 1, settings.calls))
            for writer in writers.values():
                writer.close()
        for name, samples in rounds.samples.items():
            yield Point(database.title, name, size, samples)
        if is_compared:
            floors = (database.raw_driver_name, f"{database.raw_driver_name} and pydantic")
            is_on_disk = database.name != RAM_DISK
            yield rounds.compare(floors[0], at_most=1.4 if is_on_disk else None)
            yield rounds.compare(floors[1], at_most=None if is_on_disk else 1.9)
            goals = {SQLALCHEMY: 10.0, "chunked-fs": {100: 3.0, 1000: 6.0}[size]} if database.name == "sqlite" else {}
            for name in makers:
                if name not in (THIS_STORE, *floors):
                    yield rounds.compare(name, criterion="speed-up", at_least=goals.get(name))


def parameters(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure one call that sets 100 new parameters."""
    store, raw_driver = DBStoreAdapter(database.new_url_with_table()), RawDriver(database.new_url_with_table())
    runs = itertools.count()

    def prepare(writer: AnyStore) -> Call:
        run_id = f"run{next(runs)}"
        writer.write_run_log(RunLog(run_id=run_id))
        return writer.prepare_set_parameters(run_id, logs.parameters(100))

    preparers = {THIS_STORE: partial(prepare, store), database.raw_driver_name: partial(prepare, raw_driver)}
    time_in_turns(preparers, 1, WARM_UP)
    rounds = Rounds("set_parameters of 100", database)
    for _ in range(settings.rounds):
        rounds.add(time_in_turns(preparers, settings.turns, settings.calls))
    store.close()
    raw_driver.close()
    yield rounds.compare(database.raw_driver_name, at_most=1.5)


def full_run_log(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure reading a full run log with branches."""
    url = database.new_url_with_table()
    store, raw_driver = DBStoreAdapter(url), RawDriver(url)
    log = logs.branched_run_log(RUN, settings.full_run)
    store.write_run_log(log)
    rounds = Rounds(f"full run log of {logs.count_steps(log):,} steps", database)
    del log
    raw_name = f"{database.raw_driver_name} and pydantic"
    preparers = {THIS_STORE: lambda: store.prepare_read(RUN), raw_name: lambda: raw_driver.prepare_read(RUN)}
    for _ in range(settings.rounds):
        rounds.add(time_in_turns(preparers, 2, 1))
    store.close()
    raw_driver.close()
    yield rounds.compare(raw_name, at_most=1.3)


def growth(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure a step at the end of a long run, and in a table with many other runs. Compare with the raw driver."""
    tenth = settings.long_run // 10
    first, last, among_others = "the first tenth", "the last tenth", "among other runs"
    preparers: Dict[str, Callable[[], Call]] = {}
    writers: List[AnyStore] = []
    for name, make in ((THIS_STORE, DBStoreAdapter), (database.raw_driver_name, RawDriver)):
        for where in (first, last, among_others):
            url = database.new_url_with_table()
            if where == among_others:
                insert_other_runs(url, settings.other_rows)
            writer: AnyStore = make(url)
            warm_up(writer)
            present = settings.long_run - tenth if where == last else 0
            writer.write_run_log(logs.run_log(RUN, present))
            preparers[f"{name}, {where}"] = prepare_steps(writer, present)
            writers.append(writer)
    rounds = Rounds("growth", database)
    turns = max(tenth // settings.rounds // settings.calls, 1)
    for _ in range(settings.rounds):
        rounds.add(time_in_turns(preparers, turns, settings.calls))
    for writer in writers:
        writer.close()
    for where, workload, limit in (
        (last, f"growth: the last tenth of {settings.long_run:,} steps", 1.1),
        (among_others, f"growth: a step among {settings.other_rows:,} rows of other runs", 1.2),
    ):
        for name in (THIS_STORE, database.raw_driver_name):
            samples, other_samples = rounds.samples[f"{name}, {where}"], rounds.samples[f"{name}, {first}"]
            at_most = limit if name == THIS_STORE else None
            yield Comparison(
                workload, database.title, "s", name, samples, f"{first}, alone", other_samples, at_most=at_most
            )


def many_processes(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure many processes that write one run at the same time."""
    makers: Dict[str, Callable[[str], AnyStore]] = {THIS_STORE: DBStoreAdapter, database.raw_driver_name: RawDriver}
    workload = f"{settings.processes} processes, one run"
    steps = Rounds(workload, database, "steps/s")
    slowest = Rounds(f"{workload}: slowest call", database)
    errors = Rounds(f"{workload}: errors", database, "errors")
    for _ in range(settings.rounds):
        throughputs = {
            name: write_concurrently(makers[name], database.new_url_with_table(), settings.processes, settings.seconds)
            for name in shuffled(makers)
        }
        steps.add({name: each.steps_per_second for name, each in throughputs.items()})
        slowest.add({name: each.slowest_call for name, each in throughputs.items()})
        errors.add({name: each.errors for name, each in throughputs.items()})
    yield steps.compare(database.raw_driver_name, at_least=0.7)
    yield slowest.compare(
        database.raw_driver_name, criterion="value", at_most=2.0 if database.name == "sqlite" else None
    )
    yield errors.compare(database.raw_driver_name, criterion="value", at_most=0)


def runs(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure the queries of `magnus db runs` and `magnus db show`, with many runs and with few runs."""
    few = "100 runs"
    stores: Dict[str, DBStore] = {}
    for name, count in ((THIS_STORE, settings.runs), (few, 100)):
        url = database.new_url_with_table()
        insert_runs(url, count, steps=50)
        stores[name] = DBStore(connection_string=url)
    for workload, call in (
        ("list the newest 20", list_runs),
        ("read one, of 50 steps", lambda store: read_run(store, "run77")),
    ):
        rounds = Rounds(f"{settings.runs:,} runs: {workload}", database)
        # Each preparer returns a call. The first calls are not measured.
        preparers = {name: partial(partial, partial(call, store)) for name, store in stores.items()}
        time_in_turns(preparers, 1, 1)
        for _ in range(settings.rounds):
            rounds.add(time_in_turns(preparers, settings.turns, 1))
        yield rounds.compare(few, criterion="value", at_most=1.0)
    for store in stores.values():
        store.close()

"""The works that are measured in this process, and by a crowd of others."""

import itertools
from contextlib import closing
from functools import partial
from typing import Callable, Dict, Iterator, List

from magnus.datastore import BranchLog, RunLog

from benchmarks import logs
from benchmarks.contenders import OURS, SQLALCHEMY, Call, Contender, Ours, RawDriver, Store, contenders
from benchmarks.counting import Counter, Proxy, counted_statements
from benchmarks.crowd import crowd
from benchmarks.databases import Database, crowd_with_other_runs, fill_with_runs
from benchmarks.measuring import Effort, Rounds, alternate, shuffled
from benchmarks.results import Comparison, Count, Point, Result
from magnus_peewee_store import DBStore
from magnus_peewee_store.runs import list_runs, read_run

RUN = "run"
WARM_UP = 6  # psycopg prepares a statement at its sixth use


def steps_of(contender: Contender, first: int) -> Callable[[], Call]:
    """Prepare one step after the other, by number."""
    numbers = itertools.count(first)

    def prepare() -> Call:
        calls = contender.calls(RUN, next(numbers))

        def step() -> None:
            for call in calls:
                call()

        return step

    return prepare


def warm_up(contender: Contender) -> None:
    """Do what is done once a connection, on a run of its own."""
    contender.fill(logs.run_log("warm-up", 1))
    for number in range(1, WARM_UP + 1):
        for call in contender.calls("warm-up", number):
            call()


def step(database: Database, effort: Effort) -> Iterator[Result]:
    """A step's six calls, by how many steps the run has already."""
    makers = contenders(database)
    for size in effort.sizes:
        judged = size in effort.judged_sizes
        rounds = Rounds(f"a step's six calls, {size:,} steps in the run", database)
        for _ in range(effort.rounds):
            writers = {name: make() for name, make in makers.items()}
            for writer in writers.values():
                warm_up(writer)
                writer.fill(logs.run_log(RUN, size))
            works = {name: steps_of(writer, size) for name, writer in writers.items()}
            rounds.add(alternate(works, effort.turns if judged else 1, effort.calls))
            for writer in writers.values():
                writer.close()
        for name, samples in rounds.samples.items():
            yield Point(database.title, name, size, samples)
        if judged:
            floors = (database.raw, f"{database.raw} and pydantic")
            yield rounds.compare(floors[0], at_most=1.4)
            yield rounds.compare(floors[1])
            goals = {SQLALCHEMY: 10.0, "chunked-fs": {100: 3.0, 1000: 6.0}[size]} if database.name == "sqlite" else {}
            for name in makers:
                if name not in (OURS, *floors):
                    yield rounds.compare(name, judged_by="speed-up", at_least=goals.get(name))


def parameters(database: Database, effort: Effort) -> Iterator[Result]:
    """100 new parameters at once."""
    store, floor = Ours(database.fresh()), RawDriver(database.fresh())
    runs = itertools.count()

    def prepare(writer: Contender) -> Call:
        run_id = f"run{next(runs)}"
        writer.fill(RunLog(run_id=run_id))
        return writer.setting(run_id, logs.parameters(100))

    works = {OURS: partial(prepare, store), database.raw: partial(prepare, floor)}
    alternate(works, 1, WARM_UP)
    rounds = Rounds("set_parameters of 100", database)
    for _ in range(effort.rounds):
        rounds.add(alternate(works, effort.turns, effort.calls))
    store.close()
    floor.close()
    yield rounds.compare(database.raw, at_most=1.5)


def full_run_log(database: Database, effort: Effort) -> Iterator[Result]:
    """A full run log with branches."""
    url = database.fresh()
    store, floor = Ours(url), RawDriver(url)
    log = logs.branched_run_log(RUN, effort.full_run)
    store.fill(log)
    rounds = Rounds(f"full run log of {logs.count_steps(log):,} steps", database)
    del log
    raw = f"{database.raw} and pydantic"
    works = {OURS: lambda: store.reading(RUN), raw: lambda: floor.reading(RUN)}
    for _ in range(effort.rounds):
        rounds.add(alternate(works, 2, 1))
    store.close()
    floor.close()
    yield rounds.compare(raw, at_most=1.3)


def growth(database: Database, effort: Effort) -> Iterator[Result]:
    """What a step costs at the end of a long run, and among other runs; and how much of that is the database's."""
    tenth = effort.long_run // 10
    first, last, crowded = "the first tenth", "the last tenth", "among other runs"
    works: Dict[str, Callable[[], Call]] = {}
    writers: List[Contender] = []
    for name, make in ((OURS, Ours), (database.raw, RawDriver)):
        for where in (first, last, crowded):
            url = database.fresh()
            if where == crowded:
                crowd_with_other_runs(url, effort.other_rows)
            writer: Contender = make(url)
            warm_up(writer)
            present = effort.long_run - tenth if where == last else 0
            writer.fill(logs.run_log(RUN, present))
            works[f"{name}, {where}"] = steps_of(writer, present)
            writers.append(writer)
    rounds = Rounds("growth", database)
    turns = max(tenth // effort.rounds // effort.calls, 1)
    for _ in range(effort.rounds):
        rounds.add(alternate(works, turns, effort.calls))
    for writer in writers:
        writer.close()
    for where, work, limit in (
        (last, f"growth: the last tenth of {effort.long_run:,} steps", 1.1),
        (crowded, f"growth: a step among {effort.other_rows:,} rows of other runs", 1.2),
    ):
        for name in (OURS, database.raw):
            own, others = rounds.samples[f"{name}, {where}"], rounds.samples[f"{name}, {first}"]
            at_most = limit if name == OURS else None
            yield Comparison(work, database.title, "s", name, own, f"{first}, alone", others, at_most=at_most)


def many_processes(database: Database, effort: Effort) -> Iterator[Result]:
    """Many processes that write one run."""
    makers: Dict[str, Callable[[str], Contender]] = {OURS: Ours, database.raw: RawDriver}
    work = f"{effort.processes} processes, one run"
    steps = Rounds(work, database, "steps/s")
    slowest = Rounds(f"{work}: slowest call", database)
    errors = Rounds(f"{work}: errors", database, "errors")
    for _ in range(effort.rounds):
        done = {
            name: crowd(makers[name], database.fresh(), effort.processes, effort.seconds) for name in shuffled(makers)
        }
        steps.add({name: share.steps_per_second for name, share in done.items()})
        slowest.add({name: share.slowest_call for name, share in done.items()})
        errors.add({name: share.errors for name, share in done.items()})
    yield steps.compare(database.raw, at_least=0.7)
    yield slowest.compare(database.raw, judged_by="value", at_most=2.0 if database.name == "sqlite" else None)
    yield errors.compare(database.raw, judged_by="value", at_most=0)


def runs(database: Database, effort: Effort) -> Iterator[Result]:
    """What `magnus db runs` and `magnus db show` stand on, in a database of many runs and in one of few."""
    few = "100 runs"
    stores: Dict[str, DBStore] = {}
    for name, count in ((OURS, effort.runs), (few, 100)):
        url = database.fresh()
        fill_with_runs(url, count, steps=50)
        stores[name] = DBStore(connection_string=url)
    for work, call in (
        ("list the newest 20", list_runs),
        ("read one, of 50 steps", lambda store: read_run(store, "run77")),
    ):
        rounds = Rounds(f"{effort.runs:,} runs: {work}", database)
        # Each prepares a call, and is done once before it counts.
        works = {name: partial(partial, partial(call, store)) for name, store in stores.items()}
        alternate(works, 1, 1)
        for _ in range(effort.rounds):
            rounds.add(alternate(works, effort.turns, 1))
        yield rounds.compare(few, judged_by="value", at_most=1.0)
    for store in stores.values():
        store.close()


def counts(database: Database, _: Effort) -> Iterator[Result]:
    """How often each call goes to the database, counted once it is connected."""
    if database.name == "sqlite":
        with counted_statements() as counter:
            yield from _counts(database, Ours(database.fresh()), counter, "statements")
    else:
        with closing(Proxy(database.fresh())) as proxy:
            yield from _counts(database, Ours(proxy.url), proxy, "round trips")


def _counts(database: Database, contender: Store, counter: Counter, unit: str) -> Iterator[Count]:
    contender.fill(logs.branched_run_log(RUN, 30))
    warm_up(contender)
    store, name = contender.store, logs.step_name(0)
    calls: Dict[str, Call] = {
        "create_run_log": lambda: store.create_run_log("new"),
        "get_run_log_by_id": lambda: store.get_run_log_by_id(RUN),
        "get_run_log_by_id, full": lambda: store.get_run_log_by_id(RUN, full=True),
        "put_run_log, of 1 step": lambda: store.put_run_log(logs.run_log(RUN, 1)),
        "update_run_log_status": lambda: store.update_run_log_status(RUN, "SUCCESS"),
        "get_parameters": lambda: store.get_parameters(RUN),
        "set_parameters, of 1": lambda: store.set_parameters(RUN, logs.parameters(1)),
        "set_parameters, of 100": lambda: store.set_parameters(RUN, logs.parameters(100)),
        "get_run_config": lambda: store.get_run_config(RUN),
        "set_run_config": lambda: store.set_run_config(RUN, {"a": 1}),
        "get_step_log": lambda: store.get_step_log(name, RUN),
        "add_step_log, new": lambda: store.add_step_log(logs.finished("new"), RUN),
        "add_step_log, again": lambda: store.add_step_log(logs.finished("new"), RUN),
        "add_step_log, in a branch": lambda: store.add_step_log(logs.finished(f"{name}.branch0.new"), RUN),
        "get_branch_log": lambda: store.get_branch_log(f"{name}.branch0", RUN),
        "add_branch_log": lambda: store.add_branch_log(BranchLog(internal_name=f"{name}.new"), RUN),
    }
    for name_of_call, call in calls.items():
        yield Count(database.title, name_of_call, unit, counter.of(call))
    store.close()

"""Measure reading many runs: lists and searches."""

import json
import resource
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

from benchmarks import logs
from benchmarks.databases import Database
from benchmarks.pipelines import run
from benchmarks.raw import connect, dialect_of, insert_runs
from benchmarks.stores import THIS_STORE, Call, db_store
from benchmarks.timing import Comparison, Settings, shuffled, time_in_turns
from magnus_peewee_store import DBStore
from magnus_peewee_store.runs import list_runs, search

STEPS = 30  # of a run

# The metrics of all steps, extracted by the database.
SELECT_METRICS = {
    "sqlite": "json_extract(attribute_value, '$.user_defined_metrics')",
    "postgresql": "(attribute_value::json -> 'user_defined_metrics')::text",
    "mysql": "JSON_EXTRACT(attribute_value, '$.user_defined_metrics')",
}


def newest_runs(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure the queries of `magnus db runs`, with many runs and with few runs."""
    count, few = settings.size(100_000), "100 runs"
    stores: Dict[str, DBStore] = {}
    for name, runs in ((THIS_STORE, count), (few, 100)):
        url = database.new_url_with_table()
        insert_runs(url, logs.short_runs(runs))
        stores[name] = db_store(url)
    # Each preparer returns a call. The first calls are not measured.
    preparers = {name: partial(partial, list_runs, store) for name, store in stores.items()}
    time_in_turns(preparers, 1, 1)
    rounds = [time_in_turns(preparers, 4, 1, database.clock_of_reads) for _ in range(settings.rounds)]
    for store in stores.values():
        store.close()
    yield Comparison(f"list the newest 20 of {count:,} runs", database, rounds, few, has_ratio=False, at_most=1.0)


def runs_command(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure the CPU time of the whole process of `magnus db runs`. Compare with `magnus --help`."""
    count = settings.size(2000)
    url = database.new_url_with_table()
    insert_runs(url, logs.measured_runs(count, STEPS))
    newest, all_runs, start = "magnus db runs", f"magnus db runs --limit {count}", "magnus --help"
    commands = {
        newest: ["db", "runs", "--connection-string", url],
        all_runs: ["db", "runs", "--limit", str(count), "--connection-string", url],
        start: ["--help"],
    }
    _cpu_times(commands, database)  # This compiles the modules.
    rounds = [_cpu_times(commands, database) for _ in range(settings.rounds)]
    yield Comparison("CPU time", database, rounds, start, store=newest, at_most=1.1)
    yield Comparison("CPU time", database, rounds, start, store=all_runs, has_ratio=False, at_most=1.0)


def report_command(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure the CPU time of the whole process of `magnus db report`. Compare with `magnus --help`."""
    count = settings.size(1000)
    url = database.new_url_with_table()
    insert_runs(url, logs.measured_runs(count, 10, parameters=20, metrics=10))
    report, start = f"magnus db report of {count:,} runs", "magnus --help"
    commands = {report: ["db", "report", "-o", "report", "--connection-string", url], start: ["--help"]}
    _cpu_times(commands, database)  # This compiles the modules.
    rounds = [_cpu_times(commands, database) for _ in range(settings.rounds)]
    yield Comparison("CPU time", database, rounds, start, store=report, has_ratio=False, at_most=10.0)


def _cpu_times(commands: Dict[str, List[str]], database: Database) -> Dict[str, float]:
    """Run commands of magnus, and return the seconds of CPU time of each."""
    magnus = str(Path(sys.executable).parent / "magnus")
    seconds = {}
    for name in shuffled(commands):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(magnus, *commands[name], folder=database.folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds[name] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds


def search_runs(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure a search over all runs. Compare with the raw driver that reads the metrics by JSON functions."""
    count = settings.size(10_000)
    url = database.new_url_with_table()
    insert_runs(url, logs.measured_runs(count, STEPS))
    statement = (
        f"SELECT run_id, attribute_key, {SELECT_METRICS[dialect_of(url)]} FROM db_log WHERE attribute_type = 'Step'"
    )
    store = db_store(url)

    def read_metrics() -> List[Any]:
        with closing(connect(url)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(statement)
            return [(run_id, name, json.loads(metrics)) for run_id, name, metrics in cursor.fetchall()]

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    search(store)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    raw_name = f"{database.raw_driver_name} and json.loads"
    preparers: Dict[str, Callable[[], Call]] = {
        THIS_STORE: lambda: partial(search, store),
        raw_name: lambda: read_metrics,
    }
    workload = f"search {count:,} runs of {STEPS} steps"
    rounds = [time_in_turns(preparers, 1, 1, database.clock_of_reads) for _ in range(settings.rounds)]
    store.close()
    yield Comparison(workload, database, rounds, raw_name, at_most=1.5)
    peak = [{THIS_STORE: memory, "before": 0.0}]
    yield Comparison(f"{workload}: memory", database, peak, "before", unit="MB", has_ratio=False, at_most=150.0)

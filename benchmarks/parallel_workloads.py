"""Workloads of the executor `local-parallel`: branches that wait, branches that do nothing, and memory."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator

from benchmarks.databases import Database
from benchmarks.process_workloads import run
from benchmarks.results import Result
from benchmarks.timing import Rounds, Settings, shuffled

LOCAL, LOCAL_PARALLEL = "local", "local-parallel"
WORKERS = 8
FUNCTIONS = """
import time

def wait():
    time.sleep(1)
"""
# The pipeline from its start to its end, without the import of magnus. The map from its own row to that of the next
# node, without the complete run log that magnus prints at the end.
PIPELINE_SCRIPT = """
import json, time
from magnus import cli, entrypoints
from magnus_peewee_store import DBStore

start = time.perf_counter()
entrypoints.execute("config.json", "pipeline.json", parameters_file="parameters.json", run_id="run")
pipeline = time.perf_counter() - start
store = DBStore(**json.load(open("config.json"))["run_log_store"]["config"])
created_at = {row.attribute_key: row.created_at for row in store.table.read_runs(["run"])}
print(json.dumps({"pipeline": pipeline, "map": (created_at["success"] - created_at["each"]).total_seconds()}))
"""
# The workers read the array and wait for each other, so that all are measured at once. Of the memory that several
# processes share, each counts its share (proportional set size). The parent counts, too.
MEMORY_SCRIPT = """
import os, re, sys, tempfile, time
from pathlib import Path
from magnus_peewee_store.parallel import executor as executors, workers
from magnus_peewee_store.parallel.slots import Slots

size, count = map(int, sys.argv[1:])
folder = Path(tempfile.mkdtemp(dir="."))
array = bytearray(b"x") * size

def meet(name, number, value=""):
    (folder / f"{name}{number}.tmp").write_text(str(value))
    (folder / f"{name}{number}.tmp").rename(folder / f"{name}{number}")
    while not all((folder / f"{name}{each}").exists() for each in range(count)):
        time.sleep(0.01)

def kilobytes(process):
    return int(re.search(r"^Pss: +([0-9]+)", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)[1])

def work(number):
    assert sum(array[:: 1 << 12]) > 0
    meet("ready", number)
    if number == 0:
        (folder / "parent").write_text(str(kilobytes(parent)))
    meet("measured", number, kilobytes("self"))

parent = os.getpid()
jobs = [lambda number=number: work(number) for number in range(count)]
workers.run(jobs, Slots(count), lambda index, failure: sys.exit(failure.reason))
files = [folder / "parent", *(folder / f"measured{number}" for number in range(count))]
print(sum(int(file.read_text()) for file in files) / (1 << 20))
"""


def parallel(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure maps with magnus' executor `local` and with `local-parallel`, and the memory of the workers."""
    stub = {"type": "stub", "next": "success"}
    if database.name == "sqlite":
        wait = {"type": "task", "command": "functions.wait", "next": "success"}
        workload = f"map of {WORKERS} branches of 1 s, {WORKERS} workers"
        rounds = _time_map(workload, database, settings, WORKERS, WORKERS, wait)
        yield rounds["pipeline"].compare(LOCAL, LOCAL_PARALLEL, criterion="value", at_most=2.5)
    workload = f"map of {settings.branches} stub branches, 2 workers"
    rounds = _time_map(workload, database, settings, settings.branches, 2, stub)
    yield rounds["pipeline"].compare(LOCAL, LOCAL_PARALLEL, at_most=0.75)
    yield rounds["map"].compare(LOCAL, LOCAL_PARALLEL, at_most=0.75)
    if database.name == "sqlite" and Path("/proc/self/smaps_rollup").exists():
        workload = f"memory of a parent with an array of {settings.array / (1 << 30):.2g} GB and its workers"
        memory = Rounds(workload, database, "GB")
        for _ in range(settings.rounds):
            counts = {"1 worker": 1, f"{WORKERS} workers": WORKERS}
            memory.add({name: _measure_memory(database, settings, count) for name, count in counts.items()})
        yield memory.compare("1 worker", f"{WORKERS} workers", criterion="value", at_most=2)


def _time_map(
    workload: str, database: Database, settings: Settings, branches: int, workers: int, step: Dict[str, Any]
) -> Dict[str, Rounds]:
    """Time a map whose branches have one step, with each executor: the complete pipeline, and the map alone."""
    end = {"success": {"type": "success"}, "fail": {"type": "fail"}}
    branch = {"start_at": "step", "steps": {"step": step, **end}}
    each = {"type": "map", "iterate_on": "values", "iterate_as": "value", "branch": branch, "next": "success"}
    pipeline = {"dag": {"start_at": "each", "steps": {"each": each, **end}}}
    parameters = {"values": list(range(branches))}
    executors: Dict[str, Any] = {
        LOCAL: {"type": LOCAL, "config": {}},
        LOCAL_PARALLEL: {"type": LOCAL_PARALLEL, "config": {"max_workers": workers}},
    }
    rounds = {"pipeline": Rounds(workload, database), "map": Rounds(f"{workload}: the map alone", database)}
    for _ in range(settings.rounds):
        seconds = {}
        for name in shuffled(executors):
            store = {"type": "db", "config": {"connection_string": database.new_url_with_table()}}
            config = {"executor": executors[name], "run_log_store": store}
            seconds[name] = _time_pipeline(database.folder, pipeline=pipeline, config=config, parameters=parameters)
        for part in rounds:
            rounds[part].add({name: seconds[name][part] for name in seconds})
    return rounds


def _time_pipeline(folder: Path, **files: Any) -> Dict[str, float]:
    with tempfile.TemporaryDirectory(dir=str(folder)) as project:
        Path(project, "functions.py").write_text(FUNCTIONS, encoding="utf-8")
        for name, content in files.items():
            Path(project, f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        output = run(sys.executable, "-c", PIPELINE_SCRIPT, folder=Path(project))
        seconds: Dict[str, float] = json.loads(output.splitlines()[-1])
        return seconds


def _measure_memory(database: Database, settings: Settings, count: int) -> float:
    script = (sys.executable, "-c", MEMORY_SCRIPT, str(settings.array), str(count))
    return float(run(*script, folder=database.folder).split()[-1])

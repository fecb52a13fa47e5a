"""Measure processes: a first call, a complete pipeline, and maps whose branches run in parallel."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

from benchmarks import logs
from benchmarks.databases import Database
from benchmarks.raw import insert_run
from benchmarks.stores import THIS_STORE
from benchmarks.timing import Comparison, Settings, shuffled

# Child processes import the same version of the package.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MAGNUS_")}
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)
LOCAL, LOCAL_PARALLEL = "local", "local-parallel"
END = {"success": {"type": "success"}, "fail": {"type": "fail"}}

STORE_FIRST_CALL = """
import sys, time
start = time.perf_counter()
from magnus.datastore import StepLog
from magnus_peewee_store import DBStore
DBStore(connection_string=sys.argv[1]).add_step_log(StepLog(name="a", internal_name="a"), "run")
print(time.perf_counter() - start)
"""
RAW_FIRST_CALL = """
import sys, time
start = time.perf_counter()
import peewee
from magnus.datastore import StepLog
from benchmarks.raw import RawDriverAndPydantic
RawDriverAndPydantic(sys.argv[1]).add_step_log(StepLog(name="a", internal_name="a"), "run")
print(time.perf_counter() - start)
"""
# Execute a pipeline, without the import of magnus. The map lasts from its own row to that of the next node, without the
# complete run log that magnus prints at the end.
EXECUTE = """
import json, os, time
from magnus import cli, entrypoints
from magnus_peewee_store import DBStore

start, cpu_start = time.perf_counter(), sum(os.times()[:4])
entrypoints.execute("config.json", "pipeline.json", parameters_file="parameters.json", run_id="run")
pipeline, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu_start
store = DBStore(**json.load(open("config.json"))["run_log_store"]["config"])
created_at = {row.attribute_key: row.created_at for row in store.table.read_runs(["run"])}
map_alone = (created_at["success"] - created_at["each"]).total_seconds()
print(json.dumps({"pipeline": pipeline, "map alone": map_alone, "CPU time": cpu}))
"""


def first_call(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure the first call of a new process: import, connect and write."""
    url = database.new_url_with_table()
    insert_run(url, logs.run_log("run", 1))
    scripts = {THIS_STORE: STORE_FIRST_CALL, database.raw_driver_name: RAW_FIRST_CALL}
    rounds = []
    for number in range(2 * settings.rounds + 1):
        seconds = {
            name: float(run(sys.executable, "-c", scripts[name], url, folder=database.folder).split()[-1])
            for name in shuffled(scripts)
        }
        if number:  # Not the first round, which compiles the modules.
            rounds.append(seconds)
    yield Comparison("first call of a new process", database, rounds, database.raw_driver_name, at_most=1.3)


def pipeline(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure a pipeline of stub steps, run by the magnus command."""
    names = [logs.step_name(number) for number in range(settings.size(100))]
    steps: Dict[str, Any] = {
        name: {"type": "stub", "next": next_name} for name, next_name in zip(names, [*names[1:], "end"])
    }
    dag = {"start_at": names[0], "steps": {**steps, "end": {"type": "success"}, "fail": {"type": "fail"}}}
    magnus = str(Path(sys.executable).parent / "magnus")
    command = [magnus, "execute", "-f", "pipeline.json", "-c", "config.json"]
    stores: Dict[str, Callable[[], Dict[str, Any]]] = {
        THIS_STORE: lambda: _store_in(database),
        "buffered": lambda: {"type": "buffered"},
    }
    rounds = []
    for _ in range(settings.rounds):
        seconds = {}
        for name in shuffled(stores):
            with _project(database.folder, pipeline={"dag": dag}, config={"run_log_store": stores[name]()}) as folder:
                start = time.perf_counter()
                run(*command, folder=folder)
                seconds[name] = time.perf_counter() - start
        rounds.append(seconds)
    yield Comparison(f"pipeline of {len(names)} stub steps", database, rounds, "buffered", at_most=1.05)


def parallel(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure a map of stub branches with magnus' executor `local`, and with `local-parallel` and two workers."""
    branches = settings.size(200)
    branch = {"start_at": "step", "steps": {"step": {"type": "stub", "next": "success"}, **END}}
    each = {"type": "map", "iterate_on": "values", "iterate_as": "value", "branch": branch, "next": "success"}
    dag = {"start_at": "each", "steps": {"each": each, **END}}
    executors: Dict[str, Any] = {
        LOCAL: {"type": LOCAL, "config": {}},
        LOCAL_PARALLEL: {"type": LOCAL_PARALLEL, "config": {"max_workers": 2}},
    }
    rounds: Dict[str, List[Dict[str, float]]] = {"pipeline": [], "map alone": [], "CPU time": []}
    for _ in range(settings.rounds):
        measured: Dict[str, Dict[str, float]] = {}
        for name in shuffled(executors):
            config = {"executor": executors[name], "run_log_store": _store_in(database)}
            parameters = {"values": list(range(branches))}
            with _project(database.folder, pipeline={"dag": dag}, config=config, parameters=parameters) as folder:
                measured[name] = json.loads(run(sys.executable, "-c", EXECUTE, folder=folder).splitlines()[-1])
        for part, samples in rounds.items():
            samples.append({name: each[part] for name, each in measured.items()})
    for part, at_most in {"pipeline": 0.75, "map alone": 0.75, "CPU time": None}.items():
        workload = f"map of {branches} stub branches, 2 workers: {part}"
        yield Comparison(workload, database, rounds[part], LOCAL, store=LOCAL_PARALLEL, at_most=at_most)


def _store_in(database: Database) -> Dict[str, Any]:
    return {"type": "db", "config": {"connection_string": database.new_url_with_table()}}


@contextmanager
def _project(parent: Path, **files: Any) -> Iterator[Path]:
    """Yield a new folder with JSON files."""
    with tempfile.TemporaryDirectory(dir=str(parent)) as folder:
        for name, content in files.items():
            Path(folder, f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        yield Path(folder)


def run(*command: str, folder: Path) -> str:
    """Run a command in a folder and return its output.

    Raises:
        RuntimeError: If the command fails. The message contains the output.
    """
    result = subprocess.run(
        command, cwd=str(folder), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{result.stdout[-5000:]}")
    return result.stdout

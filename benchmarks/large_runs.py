"""The commands that show large runs: a map with many branches, and a step with many metrics."""

import random
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

from magnus.datastore import BranchLog, DataCatalog, RunLog

from benchmarks import logs
from benchmarks.databases import Database
from benchmarks.pipelines import run
from benchmarks.raw import insert_run
from benchmarks.stores import THIS_STORE
from benchmarks.timing import Comparison, Settings
from magnus_peewee_store.logs import steps_of
from magnus_peewee_store.runs.lineage import OUTPUT_FILE, output_files

LIMIT = 5.0  # seconds for the whole process of a command
COMMANDS: Dict[str, List[str]] = {
    "show": ["show", "first"],
    "logs": ["logs", "first"],
    "timeline": ["timeline", "first", "-o", "run.html"],
    "diff": ["diff", "first", "second"],
    "diff of three": ["diff", "first", "second", "third"],
    "runs": ["runs", "--metrics"],
    "search": ["runs", "--where", "parameter0 = 0"],
}


def map_of(run_id: str, branches: int, values: random.Random) -> RunLog:
    """Return the log of a run with a map. Each branch has a step with two metrics, data and output."""
    log = logs.run_log(run_id, 1)
    log.status = "SUCCESS"
    (step,) = log.steps.values()
    step.step_type = "map"
    for number in range(branches):
        branch = f"{step.internal_name}.{number}"
        inner = logs.finished(f"{branch}.train")
        inner.user_defined_metrics = {"loss": values.random(), "score": {"mean": values.random()}}
        output = f"{inner.internal_name}{OUTPUT_FILE}"
        inner.data_catalog.append(
            DataCatalog(name=output, data_hash=f"{number:064}", catalog_relative_path=f"{run_id}/{output}", stage="put")
        )
        end = logs.finished(f"{branch}.success")
        end.step_type, end.user_defined_metrics, end.data_catalog, end.attempts = "success", {}, [], []
        steps = {each.internal_name: each for each in (inner, end)}
        step.branches[branch] = BranchLog(internal_name=branch, status="SUCCESS", steps=steps)
    return log


def metrics_of(run_id: str, count: int, values: random.Random) -> RunLog:
    """Return the log of a run with one step that has many metrics."""
    return _with_metrics(run_id, {f"metric{number}": values.random() for number in range(count)})


def series_of(run_id: str, count: int, values: random.Random) -> RunLog:
    """Return the log of a run with one step that has a metric with many iterations."""
    return _with_metrics(run_id, {"loss": {str(number): values.random() for number in range(count)}})


def _with_metrics(run_id: str, metrics: Dict[str, Any]) -> RunLog:
    log = logs.run_log(run_id, 1)
    log.status = "SUCCESS"
    (step,) = log.steps.values()
    step.user_defined_metrics = metrics
    return log


def write_outputs(catalog: Path, log: RunLog) -> None:
    """Write the output of the steps of a run to a catalog."""
    (catalog / log.run_id).mkdir(parents=True, exist_ok=True)
    for step in steps_of(log):
        for name in output_files(step):
            (catalog / name).write_text("Epoch 1\nEpoch 2\n", encoding="utf-8")


def large_runs(database: Database, settings: Settings) -> Iterator[Comparison]:
    """Measure the whole process of commands on a run, and compare with a run of a fifth of its size."""
    magnus = str(Path(sys.executable).parent / "magnus")
    branches, metrics = settings.size(5000), settings.size(100_000)
    kinds: Dict[str, Callable[..., RunLog]] = {
        f"a map of {branches:,} branches": map_of,
        f"{metrics:,} metrics": metrics_of,
        f"a metric with {metrics:,} iterations": series_of,
    }
    for kind, make in kinds.items():
        count = branches if make is map_of else metrics
        urls = {}
        for size in (count // 5, count):
            urls[size] = url = database.new_url_with_table()
            values = random.Random(0)
            for run_id in ("first", "second", "third"):
                log = make(run_id, size, values)
                insert_run(url, log)
                write_outputs(database.folder / ".catalog", log)
        for name, arguments in COMMANDS.items():
            rounds: List[Dict[str, float]] = []
            for _ in range(settings.rounds):
                seconds = {}
                for size, url in urls.items():
                    start = time.perf_counter()
                    run(magnus, "db", *arguments, "--connection-string", url, folder=database.folder)
                    seconds[size] = time.perf_counter() - start
                rounds.append({THIS_STORE: seconds[count], "a fifth of the size": seconds[count // 5]})
            workload = f"magnus db {name}, {kind}"
            yield Comparison(workload, database, rounds, "a fifth of the size", has_ratio=False, at_most=LIMIT)

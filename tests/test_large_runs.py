"""Test that the work of a command grows linearly with the size of a run."""

import sys
from itertools import count
from typing import Any, Dict, List

import pytest
from conftest import SqliteFile
from logs import attempted_step, step
from magnus.datastore import BranchLog, RunLog
from test_cli import RunCommand
from test_cli import run as run

from magnus_peewee_store import DBStore

SIZE = 150  # branches and metrics; a second run has three times as many
LARGER = 3
GROWTH = 3.5  # at most; work that grows with the square of the size grows 9 times


def large_run(run_id: str, size: int) -> RunLog:
    """Return the log of a run with a map of many branches, and a step with many metrics and a long series."""
    end = ("10:00:00", "10:00:01")
    branches: Dict[str, BranchLog] = {}
    for number in range(size):
        name = f"map.{number}"
        output = f"{name}.train.execution.log"
        data = [{"name": output, "data_hash": run_id, "stage": "put", "catalog_relative_path": f"{run_id}/{output}"}]
        metrics = {"loss": number + len(run_id)}
        train = attempted_step(
            f"{name}.train", *end, "FAIL", "it broke", user_defined_metrics=metrics, data_catalog=data
        )
        branches[name] = BranchLog(internal_name=name, status="FAIL", steps={train.internal_name: train})
    values = {f"metric{number}": number * len(run_id) for number in range(size)}
    series = {"score": {str(number): number / len(run_id) for number in range(size)}}
    steps = {
        "map": step("map", status="FAIL", step_type="map", branches=branches),
        "measure": attempted_step("measure", *end, user_defined_metrics={**values, **series}),
    }
    return RunLog(run_id=run_id, status="FAIL", steps=steps)


def count_calls(run: RunCommand, arguments: List[str]) -> int:
    """Return how many Python functions a command calls. This is the same however busy the machine is."""
    counter = count()

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            next(counter)

    sys.setprofile(profile)
    try:
        run(*arguments)
    finally:
        sys.setprofile(None)
    return next(counter)


@pytest.mark.parametrize(
    "command",
    [
        "show {a}",
        "show {a} --json",
        "logs {a}",
        "timeline {a} -o run.html",
        "timeline {a} -o run.svg",
        "diff {a} {b}",
        "diff {a} {b} {b}c",
        "runs --metrics --where tag={a}",
        "runs --columns loss --where tag={a}",
        "runs --csv --where tag={a}",
    ],
)
def test_work_is_linear_in_the_size_of_the_run(command: str, sqlite_file: SqliteFile, run: RunCommand) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    calls = []
    for size in (SIZE, LARGER * SIZE):
        a, b = f"a{size}", f"bb{size}"
        for run_id in (a, b, f"{b}c"):
            store.put_run_log(large_run(run_id, size).model_copy(update={"tag": run_id}))
        arguments = [*command.format(a=a, b=b).split(" "), "--connection-string", sqlite_file.url]
        run(*arguments)  # It fills the caches.
        calls.append(count_calls(run, arguments))
    store.close()
    assert calls[1] < GROWTH * calls[0], calls

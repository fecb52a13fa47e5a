"""The logs that are written and read, like those that magnus writes for a real step."""

import json
import random
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Any, Dict, Iterator, List, Tuple

from magnus.datastore import CodeIdentity, DataCatalog, RunLog, StepAttempt, StepLog

PARAMETERS = 10  # The number of parameters of a run.
SHORT_STEPS = 50  # of a short run

Row = Tuple[str, str, str]  # attribute_type, attribute_key, attribute_value
RowOfRun = Tuple[str, str, str, str, str]  # run_id, the fields of a Row, created_at


def step_name(number: int) -> str:
    """Return a step name of fixed width, because `chunked-fs` matches names by their prefix."""
    return f"step{number:08}"


def started(name: str) -> StepLog:
    """Return the log that magnus writes when a step starts."""
    return StepLog(
        name=name.rpartition(".")[2],
        internal_name=name,
        status="PROCESSING",
        code_identities=[
            CodeIdentity(
                code_identifier="75da0ba6ff58eb6b5ab8e4e1d4d2d4b6ff6e9a4e",
                code_identifier_type="git",
                code_identifier_dependable=True,
                code_identifier_url="git@example.com:forecasts.git",
            )
        ],
    )


def finished(name: str) -> StepLog:
    """Return the log that magnus writes when a step ends."""
    step_log = started(name)
    step_log.status = "SUCCESS"
    step_log.attempts = [
        StepAttempt(
            attempt_number=1,
            start_time="2026-01-01 12:00:00.000000",
            end_time="2026-01-01 12:00:05.250000",
            duration="0:00:05.250000",
            status="SUCCESS",
            parameters={"rows": 1000},
        )
    ]
    step_log.user_defined_metrics = {"loss": 0.25, "score": {"mean": 0.5, "best": 0.75}}
    step_log.data_catalog = [
        DataCatalog(
            name="data/forecast.csv",
            data_hash="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            catalog_relative_path="run/data/forecast.csv",
            catalog_handler_location=".catalog",
            stage="put",
        )
    ]
    return step_log


def parameter(number: int) -> Dict[str, Any]:
    """Return the one parameter that a step sets."""
    return {f"parameter{number % PARAMETERS}": number}


def parameters(count: int) -> Dict[str, Any]:
    """Return a number of parameters."""
    return {f"parameter{number}": {"value": number, "unit": "days"} for number in range(count)}


def run_log(run_id: str, steps: int) -> RunLog:
    """Return the log of a run with sequential steps."""
    log = RunLog(run_id=run_id, status="PROCESSING")
    for number in range(PARAMETERS):
        log.parameters.update(parameter(number))
    log.steps = OrderedDict((name, finished(name)) for name in map(step_name, range(steps)))
    return log


def step_row(step_log: StepLog) -> Row:
    """Return the row of a step."""
    return "Step", step_log.internal_name, json.dumps(step_log.model_dump(exclude={"branches"}))


def parameter_rows(values: Dict[str, Any]) -> List[Row]:
    """Return one row per parameter."""
    return [("Parameter", name, json.dumps(value)) for name, value in values.items()]


def rows(log: RunLog) -> List[Row]:
    """Return the rows of a run, parents before children."""
    header = ("RunLog", "run_log", json.dumps(log.model_dump(exclude={"steps", "parameters"})))
    return [header, *parameter_rows(log.parameters), *_rows_of_steps(log)]


def _rows_of_steps(log: Any) -> Iterator[Row]:
    for step_log in log.steps.values():
        yield step_row(step_log)
        for name, branch_log in step_log.branches.items():
            yield "Branch", name, json.dumps(branch_log.model_dump(exclude={"steps"}))
            yield from _rows_of_steps(branch_log)


def short_runs(count: int) -> Iterator[RowOfRun]:
    """Yield the rows of runs of 50 steps with short values, without parameters."""
    for number in range(count):
        run_id = f"run{number}"
        created_at = _start_of(number)
        yield run_id, "RunLog", "run_log", f'{{"run_id": "{run_id}", "status": "SUCCESS"}}', created_at
        for step in range(SHORT_STEPS):
            value = f'{{"name": "step{step}", "internal_name": "step{step}", "status": "SUCCESS"}}'
            yield run_id, "Step", f"step{step}", value, created_at


def measured_runs(count: int, steps: int, parameters: int = 3, metrics: int = 1) -> Iterator[RowOfRun]:
    """Yield the rows of runs like real ones, with some parameters, and some metrics per step."""
    values = random.Random(0)
    # What a list does not need, but a run has.
    run_config = {"pipeline_file": "pipeline.yaml", "executor": {"service_name": "local"}, "dag": ["a step" * 10] * 30}
    for number in range(count):
        log = RunLog(run_id=f"run-{number:06}", tag="nightly", status="SUCCESS", run_config=run_config)
        log.parameters = {f"parameter{index}": values.random() for index in range(parameters)}
        for index in range(steps):
            step_log = finished(step_name(index))
            step_log.user_defined_metrics = {f"metric{each}": values.random() for each in range(metrics)}
            log.steps[step_log.internal_name] = step_log
        yield from ((log.run_id, *row, _start_of(number)) for row in rows(log))


def _start_of(number: int) -> str:
    """Return when a run started: a second after the run before it."""
    return (datetime(2026, 1, 1) + timedelta(seconds=number)).isoformat(" ")

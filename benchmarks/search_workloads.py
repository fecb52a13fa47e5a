"""Workloads that read many runs: searching them, tables of them, and the command that lists them."""

import json
import os
import random
import resource
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

from benchmarks import logs
from benchmarks.databases import Database, connect, dialect_of
from benchmarks.process_workloads import run
from benchmarks.results import Comparison, Result
from benchmarks.stores import THIS_STORE, Call
from benchmarks.timing import Rounds, Settings, time_in_turns
from magnus_peewee_store import DBStore
from magnus_peewee_store.runs import search, to_dataframe

STEPS = 30  # of a run
PARAMETERS = 3
# What a list does not need, but a run has.
RUN_CONFIG = {"pipeline_file": "pipeline.yaml", "executor": {"service_name": "local"}, "dag": ["a step" * 10] * 30}

# The metrics of all steps, extracted by the database.
SELECT_METRICS = {
    "sqlite": "json_extract(attribute_value, '$.user_defined_metrics')",
    "postgresql": "(attribute_value::json -> 'user_defined_metrics')::text",
    "mysql": "JSON_EXTRACT(attribute_value, '$.user_defined_metrics')",
}


def insert_measured_runs(url: str, count: int, steps: int, metrics: int, parameters: int = PARAMETERS) -> None:
    """Insert runs with some metrics per step, and some parameters."""
    values = random.Random(0)
    rows: List[Tuple[str, str, str, str, str]] = []
    mark = "?" if dialect_of(url) == "sqlite" else "%s"
    statement = (
        "INSERT INTO db_log (run_id, attribute_type, attribute_key, attribute_value, created_at) "
        f"VALUES ({', '.join([mark] * 5)})"
    )
    with closing(connect(url)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        for number in range(count):
            run_id = f"run-{number:06}"
            header = {
                "run_id": run_id,
                "dag_hash": "1a2b",
                "use_cached": False,
                "tag": "nightly",
                "original_run_id": "",
            }
            fragments = [("RunLog", "run_log", json.dumps({**header, "status": "SUCCESS", "run_config": RUN_CONFIG}))]
            fragments += logs.parameter_rows({f"parameter{index}": values.random() for index in range(parameters)})
            for index in range(steps):
                step_log = logs.finished(logs.step_name(index))
                step_log.user_defined_metrics = {f"metric{each}": values.random() for each in range(metrics)}
                fragments.append(logs.step_row(step_log))
            minute, second = divmod(number, 60)
            created_at = f"2026-01-{minute // 1440 + 1:02} {minute // 60 % 24:02}:{minute % 60:02}:{second:02}"
            rows += [(run_id, *each, f"{created_at}.{index:06}") for index, each in enumerate(fragments)]
            if len(rows) > 10_000 or number == count - 1:
                cursor.executemany(statement, rows)
                rows.clear()
        cursor.execute("COMMIT")
        if dialect_of(url) != "sqlite":
            cursor.execute("ANALYZE TABLE db_log" if dialect_of(url) == "mysql" else "VACUUM ANALYZE db_log")


def search_runs(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure a search over all runs. Compare with the raw driver that reads the metrics by JSON functions."""
    url = database.new_url_with_table()
    insert_measured_runs(url, settings.searched_runs, STEPS, 1)
    statement = (
        f"SELECT run_id, attribute_key, {SELECT_METRICS[dialect_of(url)]} FROM db_log WHERE attribute_type = 'Step'"
    )
    store = DBStore(connection_string=url)

    def read_metrics() -> List[Any]:
        with closing(connect(url)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(statement)
            return [(run_id, name, json.loads(metrics)) for run_id, name, metrics in cursor.fetchall()]

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    search(store)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    raw_name = f"{database.raw_driver_name} and json.loads"
    preparers: Dict[str, Callable[[], Call]] = {
        THIS_STORE: lambda: lambda: search(store),
        raw_name: lambda: read_metrics,
    }
    size = f"{settings.searched_runs:,} runs of {STEPS} steps"
    rounds = Rounds(f"search {size}", database)
    for _ in range(settings.rounds):
        rounds.add(time_in_turns(preparers, 1, 1))
    store.close()
    yield rounds.compare(raw_name, at_most=1.5)
    yield Comparison(
        f"memory of a search over {size}", database.title, "MB", THIS_STORE, [memory], "before", [0.0], "value", 150.0
    )


def list_command(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure the whole process of `magnus db runs`. Compare with `magnus --help`."""
    url = database.new_url_with_table()
    insert_measured_runs(url, settings.listed_runs, STEPS, 1)
    magnus = str(Path(sys.executable).parent / "magnus")
    commands = {
        "magnus --help": [magnus, "--help"],
        "magnus db runs": [magnus, "db", "runs", "--connection-string", url],
        "all runs": [magnus, "db", "runs", "--limit", str(settings.listed_runs), "--connection-string", url],
    }
    rounds = Rounds("magnus db runs, whole process", database)
    for number in range(settings.rounds + 1):
        samples = {}
        for name, command in commands.items():
            start = time.perf_counter()
            run(*command, folder=database.folder)
            samples[name] = time.perf_counter() - start
        if number:  # Not the first round, which compiles the modules.
            rounds.add(samples)
    yield rounds.compare("magnus --help", store="magnus db runs", at_most=1.1)
    workload = f"magnus db runs --limit {settings.listed_runs}, whole process"
    yield rounds.compare("magnus --help", store="all runs", criterion="value", at_most=1.0)._replace(workload=workload)


def report_command(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure the processor time of `magnus db report`. Compare with that of `magnus --help`."""
    if database.name != "sqlite":
        return
    url = database.new_url_with_table()
    insert_measured_runs(url, settings.reported_runs, 10, 10, parameters=20)
    magnus = str(Path(sys.executable).parent / "magnus")
    commands = {
        "magnus --help": [magnus, "--help"],
        THIS_STORE: [magnus, "db", "report", "-o", "report", "--connection-string", url],
    }
    rounds = Rounds(f"magnus db report of {settings.reported_runs:,} runs, processor time", database)
    for number in range(settings.rounds + 1):
        samples = {}
        for name, command in commands.items():
            before = _processor_time_of_children()
            run(*command, folder=database.folder)
            samples[name] = _processor_time_of_children() - before
        if number:  # Not the first round, which compiles the modules.
            rounds.add(samples)
    yield rounds.compare("magnus --help", criterion="value", at_most=10.0)


def _processor_time_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def data_frame(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure a table of all runs, with 30 metrics and 3 parameters each. Compare with MLflow and Optuna."""
    if database.name != "sqlite":
        return
    url = database.new_url_with_table()
    insert_measured_runs(url, settings.framed_runs, 1, 30)
    store = DBStore(connection_string=url)
    preparers: Dict[str, Callable[[], Call]] = {THIS_STORE: lambda: lambda: to_dataframe(store)}
    for name, prepare in (("mlflow.search_runs", _prepare_mlflow), ("Optuna's trials_dataframe", _prepare_optuna)):
        try:
            preparers[name] = prepare(database, settings.framed_runs)
        except ImportError:
            continue
    time_in_turns(preparers, 1, 1)
    rounds = Rounds(f"DataFrame of {settings.framed_runs} runs", database)
    for _ in range(settings.rounds):
        rounds.add(time_in_turns(preparers, settings.turns, 1))
    store.close()
    for name in list(preparers)[1:]:
        yield rounds.compare(name, criterion="speed-up", at_least=5.0)


def _prepare_mlflow(database: Database, count: int) -> Callable[[], Call]:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    url = database.new_url()
    mlflow.set_tracking_uri(url)
    client = MlflowClient(url)
    experiment = client.create_experiment("benchmark", artifact_location=str(database.folder))
    values = random.Random(0)
    for _ in range(count):
        run_id = client.create_run(experiment).info.run_id
        metrics = [Metric(f"metric{number}", values.random(), 0, 0) for number in range(30)]
        params = [Param(f"parameter{number}", str(values.random())) for number in range(PARAMETERS)]
        client.log_batch(run_id, metrics=metrics, params=params)
        client.set_terminated(run_id)
    return lambda: lambda: mlflow.search_runs([experiment], max_results=count)


def _prepare_optuna(database: Database, count: int) -> Callable[[], Call]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = database.new_url()
    study = optuna.create_study(storage=url)
    values = random.Random(0)
    distributions = {f"parameter{number}": optuna.distributions.FloatDistribution(0, 1) for number in range(PARAMETERS)}
    study.add_trials(
        optuna.trial.create_trial(
            params={name: values.random() for name in distributions},
            distributions=distributions,
            value=values.random(),
            user_attrs={f"metric{number}": values.random() for number in range(30)},
        )
        for _ in range(count)
    )
    # A storage of its own for each call, since a storage keeps the trials that it has read.
    return lambda: optuna.load_study(study_name=study.study_name, storage=url).trials_dataframe

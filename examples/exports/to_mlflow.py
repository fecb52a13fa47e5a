"""Copy ended runs to MLFLOW_TRACKING_URI, each only once: python to_mlflow.py. Needs mlflow-skinny."""

import re

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from magnus_peewee_store import open_store, runs

STATUSES = {"SUCCESS": "FINISHED", "FAIL": "FAILED"}


def mlflow_name(name: str) -> str:
    return re.sub(r"[^\w .:/-]", "_", name)  # MLflow allows no other characters.


client = MlflowClient()
for run in runs.search(open_store()):
    if run.status not in STATUSES or run.started is None:
        continue  # It has not ended.
    found = client.get_experiment_by_name(run.project or "magnus")
    experiment = found.experiment_id if found else client.create_experiment(run.project or "magnus")
    if client.search_runs([experiment], f"tags.`magnus.run_id` = '{run.run_id}'"):
        continue
    start = round(run.started.timestamp() * 1000)
    end = start + round((run.duration or 0) * 1000)
    tags = dict.fromkeys(map(mlflow_name, run.tags), "")
    copy = client.create_run(experiment, start, tags, run.run_id).info.run_id
    params = [Param(mlflow_name(name), str(value)[:6000]) for name, value in run.params.items()]
    metrics = []
    for name, value in run.metrics.items():
        points = run.series[name].points if name in run.series else [(0, value)]
        numbers = [(step, each) for step, each in points if isinstance(each, (int, float))]
        metrics += [Metric(mlflow_name(name), each, end, step) for step, each in numbers]
    for first in range(0, max(len(params), len(metrics)), 100):  # MLflow limits the size of a batch.
        client.log_batch(copy, metrics[first : first + 100], params[first : first + 100])
    client.set_terminated(copy, STATUSES[run.status], end)
    client.set_tag(copy, "magnus.run_id", run.run_id)  # Last, so that a copy that was interrupted is made again.

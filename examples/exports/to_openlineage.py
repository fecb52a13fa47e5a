"""Send an ended run to OPENLINEAGE_URL, such as Marquez: python to_openlineage.py RUN_ID. Needs openlineage-python."""

import sys
from datetime import datetime, timedelta, timezone
from uuid import NAMESPACE_URL, uuid5

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import dataset_version_dataset, parent_run

from magnus_peewee_store import open_store, runs

run = runs.read_run(open_store(), sys.argv[1])
client, zone = OpenLineageClient(), timezone(timedelta(seconds=run.utc_offset or 0))
namespace, pipeline = run.project or "magnus", run.pipeline or "pipeline"


def send(start, end, status, name="", files=()):
    root, own = (str(uuid5(NAMESPACE_URL, f"{run.run_log.run_id}/{each}")) for each in ("", name))
    parent = parent_run.ParentRunFacet(parent_run.Run(root), parent_run.Job(namespace, pipeline))
    job = Job(namespace, f"{pipeline}.{name}".strip("."))
    uses = [(each, {"version": dataset_version_dataset.DatasetVersionDatasetFacet(each.data_hash)}) for each in files]
    inputs = [InputDataset(namespace, file.name, facets=facets) for file, facets in uses if file.stage == "get"]
    outputs = [OutputDataset(namespace, file.name, facets=facets) for file, facets in uses if file.stage == "put"]
    data = {"run": Run(own, {"parent": parent} if name else {}), "inputs": inputs, "outputs": outputs}
    for state, time in ((RunState.START, start), (RunState.COMPLETE if status == "SUCCESS" else RunState.FAIL, end)):
        client.emit(RunEvent(eventType=state, eventTime=time.isoformat(), job=job, **data))


def send_steps(log):
    for name, step in log.steps.items():
        for each in step.attempts:
            times = [datetime.fromisoformat(text).replace(tzinfo=zone) for text in (each.start_time, each.end_time)]
            send(*times, each.status, name, step.data_catalog)
        for branch in step.branches.values():
            send_steps(branch)


send(run.started, run.started + timedelta(seconds=run.duration), run.run_log.status)
send_steps(run.run_log)

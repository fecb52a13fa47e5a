"""Test the scripts of examples/exports/ against the real MLflow, OpenLineage and OpenTelemetry."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, List

import documents
import pytest
from conftest import Project
from logs import sample_run

from magnus_peewee_store import DBStore, runs

EXPORTS = documents.ROOT / "examples" / "exports"
pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and not all(map(find_spec, ("mlflow", "openlineage", "opentelemetry"))),
    reason="pip install mlflow-skinny openlineage-python opentelemetry-exporter-otlp-proto-http",
)


@pytest.fixture
def with_runs(project: Project) -> Project:
    store = DBStore(connection_string=f"sqlite:///{project.folder}/.run_log_store/run_log.db")
    failed = sample_run("failed", status="FAIL")
    failed.steps["load"].user_defined_metrics = {"loss": {"0": 0.5, "1": 0.25}}
    store.put_run_log(failed)
    store.put_run_log(sample_run("good"))
    runs.tag_run(store, "good", "nightly")
    store.close()
    project.environment["PYTHONWARNINGS"] = "ignore"
    return project


def export(project: Project, script: str, *arguments: str, **environment: str) -> None:
    project.environment.update(environment)
    project.python(str(EXPORTS / script), *arguments)


@pytest.mark.parametrize("path", sorted(EXPORTS.glob("*.py")), ids=lambda path: path.stem)
def test_script_is_short_and_on_the_public_api(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 40
    imports = {line for line in text.splitlines() if "magnus_peewee_store" in line}
    assert imports == {"from magnus_peewee_store import open_store, runs"}


def test_runs_are_copied_to_mlflow_once(with_runs: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = f"file://{tmp_path}/mlflow"
    for _ in range(2):
        export(with_runs, "to_mlflow.py", MLFLOW_TRACKING_URI=address, MLFLOW_ALLOW_FILE_STORE="true")
    # In a process of its own, because MLflow changes the filters of warnings.
    script = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
found = client.search_runs([each.experiment_id for each in client.search_experiments()])
print(json.dumps({run.info.run_name: [
    run.info.status, run.info.end_time - run.info.start_time, run.data.params, run.data.tags, sorted(run.data.metrics),
    [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "load.loss")]] for run in found}))
print(len(found))
"""
    printed, count = with_runs.python("-c", script, address).splitlines()[-2:]
    copied = json.loads(printed)
    assert count == "2" and set(copied) == {"failed", "good"}
    status, milliseconds, params, _, metrics, history = copied["failed"]
    assert (status, milliseconds, params["rows"]) == ("FAILED", 6000, "3")
    assert metrics == ["each.feb.csv.work.loss", "each.jan.csv.work.loss", "load.loss"]
    assert history == [[0, 0.5], [1, 0.25]]
    assert copied["good"][0] == "FINISHED" and copied["good"][3]["nightly"] == ""


def test_events_are_sent_to_openlineage(with_runs: Project, tmp_path: Path) -> None:
    export(
        with_runs,
        "to_openlineage.py",
        "failed",
        OPENLINEAGE__TRANSPORT__TYPE="file",
        OPENLINEAGE__TRANSPORT__LOG_FILE_PATH=str(tmp_path / "events"),
        OPENLINEAGE__TRANSPORT__APPEND="true",
    )
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    whole = [event["eventType"] for event in events if "parent" not in event["run"]["facets"]]
    assert whole == ["START", "FAIL"]
    names = [event["job"]["name"] for event in events if event["eventType"] != "START"]
    assert names == ["pipeline", "pipeline.load", "pipeline.each.jan.csv.work", "pipeline.each.feb.csv.work"]
    [load] = [event for event in events if event["job"]["name"].endswith("load") and event["eventType"] == "COMPLETE"]
    assert load["outputs"][0]["facets"]["version"]["datasetVersion"] == "0123456789abcdef"
    assert load["run"]["facets"]["parent"]["run"]["runId"] == events[0]["run"]["runId"]


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    """Run an OpenTelemetry collector. Its `received` holds the bodies of the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server: Any = HTTPServer(("127.0.0.1", 0), Handler)
    server.received = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_are_sent_to_opentelemetry(with_runs: Project, collector: Any) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    address = f"http://127.0.0.1:{collector.server_port}"
    export(
        with_runs,
        "to_opentelemetry.py",
        "failed",
        OTEL_EXPORTER_OTLP_ENDPOINT=address,
        OTEL_EXPORTER_OTLP_COMPRESSION="",
    )
    spans: List[Any] = []
    for body in collector.received:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    by_name: Dict[str, Any] = {span.name: span for span in spans}
    assert list(by_name) == ["failed", "load", "each.jan.csv.work", "each.feb.csv.work"]
    root, load = by_name["failed"], by_name["load"]
    assert load.parent_span_id == root.span_id and load.trace_id == root.trace_id
    assert load.end_time_unix_nano - load.start_time_unix_nano == 4_000_000_000
    assert (root.status.code, load.status.code) == (2, 1)  # ERROR, OK

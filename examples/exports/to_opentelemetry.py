"""Send an ended run as a trace: python to_opentelemetry.py RUN_ID. Needs opentelemetry-exporter-otlp-proto-http."""

import sys
from datetime import datetime, timedelta, timezone

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode, set_span_in_context

from magnus_peewee_store import open_store, runs

run = runs.read_run(open_store(), sys.argv[1])
zone = timezone(timedelta(seconds=run.utc_offset or 0))
provider = TracerProvider(resource=Resource.create({"service.name": run.project or "magnus"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def add_span(context, name, status, *times):
    start, end = (round(time.timestamp() * 1_000_000) * 1000 for time in times)
    span = provider.get_tracer("magnus").start_span(name, context, start_time=start)
    span.set_status(StatusCode.OK if status == "SUCCESS" else StatusCode.ERROR)
    span.end(end)
    return set_span_in_context(span)


def add_steps(context, log):
    for name, step in log.steps.items():
        for each in step.attempts:
            times = [datetime.fromisoformat(text).replace(tzinfo=zone) for text in (each.start_time, each.end_time)]
            add_span(context, name, each.status, *times)
        for branch in step.branches.values():
            add_steps(context, branch)


end = run.started + timedelta(seconds=run.duration)
add_steps(add_span(None, run.run_log.run_id, run.run_log.status, run.started, end), run.run_log)
provider.shutdown()

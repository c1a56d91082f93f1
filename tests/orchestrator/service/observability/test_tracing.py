"""One span a request, under its caller's trace."""

import pytest
from support.service import service

from orchestrator.service.api.app import create_app
from orchestrator.service.observability.tracing import Tracing, tracing_of_environment


@pytest.mark.anyio
async def test_a_request_is_a_span_of_its_callers_trace(tmp_path):
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = export.InMemorySpanExporter()
    tracing = Tracing(exporter)
    async with service(tmp_path) as made:
        job = await made.job()
        made.app = create_app(made.store, made.settings, tracing=tracing)
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        response = await made.client().get(f"/v1/jobs/{job.id}", headers=headers)
        await made.client().get("/nowhere")
    tracing.stop()
    first, second = exporter.get_finished_spans()
    assert first.name == "GET /v1/jobs/{job_id}"
    assert f"{first.context.trace_id:032x}" == trace
    assert first.attributes["http.response.status_code"] == 200
    assert (first.attributes["earshot.job"], first.attributes["earshot.request"]) == (
        job.id,
        response.headers["x-request-id"],
    )
    assert (second.name, second.attributes["http.response.status_code"]) == ("GET none", 404)


def test_tracing_is_an_option(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert tracing_of_environment() is None

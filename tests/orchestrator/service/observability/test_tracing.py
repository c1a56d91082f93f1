"""One span per request, as part of the caller's trace."""

import asyncio
import sys

import pytest
from support.service import listening, service

from orchestrator.schemas.job_state import JobState
from orchestrator.service.observability.tracing import Tracing, TracingError, tracing_of_environment

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.fixture
def exporter():
    return pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()


@pytest.mark.anyio
async def test_a_request_is_a_span_of_its_callers_trace(tmp_path, exporter):
    tracing = Tracing(exporter)
    async with service(tmp_path, tracing=tracing) as made:
        job = await made.job()
        response = await made.client().get(f"/v1/jobs/{job.id}", headers=HEADERS)
        await made.client().get("/nowhere")
    tracing.stop()
    first, second = exporter.get_finished_spans()
    assert first.name == "GET /v1/jobs/{job_id}"
    assert f"{first.context.trace_id:032x}" == TRACE
    assert first.attributes["http.request.method"] == "GET"
    assert first.attributes["http.route"] == "/v1/jobs/{job_id}"
    assert first.attributes["http.response.status_code"] == 200
    assert (first.attributes["earshot.job"], first.attributes["earshot.request"]) == (
        job.id,
        response.headers["x-request-id"],
    )
    assert (second.name, second.attributes["http.response.status_code"]) == ("GET none", 404)
    assert f"{second.context.trace_id:032x}" != TRACE


@pytest.mark.anyio
async def test_a_traced_stream_is_one_span_and_not_buffered(tmp_path, exporter):
    tracing = Tracing(exporter)
    async with listening(tmp_path, tracing=tracing) as (made, client):
        job, run = await made.running()
        async with asyncio.timeout(20), client.stream("GET", f"/v1/jobs/{job.id}/events", headers=HEADERS) as response:
            chunks = response.aiter_text()
            await anext(chunks)
            run.append_event("test", text="while the stream is open")
            received = ""
            while "while the stream is open" not in received:
                received += await anext(chunks)
            assert exporter.get_finished_spans() == ()
            await made.store.transition(job.id, JobState.RUNNING, JobState.SUCCEEDED)
            assert "event: end" in "".join([chunk async for chunk in chunks])
    (span,) = exporter.get_finished_spans()
    assert (span.name, f"{span.context.trace_id:032x}") == ("GET /v1/jobs/{job_id}/events", TRACE)
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["earshot.job"] == job.id


@pytest.mark.anyio
async def test_a_failed_request_is_a_span_with_its_status(tmp_path, exporter):
    tracing = Tracing(exporter)
    async with service(tmp_path, tracing=tracing) as made:

        async def broken():
            raise RuntimeError("a bug")

        made.store.counts = broken
        response = await made.client().get("/readyz")
    tracing.stop()
    (span,) = exporter.get_finished_spans()
    assert (response.status_code, span.attributes["http.response.status_code"], span.name) == (500, 500, "GET /readyz")


def test_tracing_is_an_option(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert tracing_of_environment() is None


def test_tracing_without_its_packages_is_an_error_only_where_it_is_enabled(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.asgi", None)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert tracing_of_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    with pytest.raises(TracingError, match=r"install earshot\[tracing\]"):
        tracing_of_environment()

"""OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT says where spans go: one span a request, under its caller's trace.

Everything else is set up as OpenTelemetry has it: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, …
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an extra: earshot[tracing]
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class TracingError(ValueError):
    """Tracing is asked for and cannot be done; one line."""


class Tracing:
    """Spans of this process."""

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        """Sends spans to the endpoint, or to `exporter`. Raises TracingError without the packages."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            raise TracingError(f"{ENDPOINT} asks for tracing: install earshot[tracing] ({error.name})") from error
        name = os.environ.get("OTEL_SERVICE_NAME", "earshot")
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("orchestrator.service")

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator["Span"]:
        """A span around a request, in the trace that its caller says."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        parent = TraceContextTextMapPropagator().extract(headers)
        with self._tracer.start_as_current_span(method, parent, SpanKind.SERVER) as span:
            yield span

    def stop(self) -> None:
        """Send what is left, within OpenTelemetry's own deadline."""
        self._provider.shutdown()


def tracing_of_environment() -> Tracing | None:
    """Tracing where the environment asks for it. Raises TracingError."""
    return Tracing() if os.environ.get(ENDPOINT) or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") else None

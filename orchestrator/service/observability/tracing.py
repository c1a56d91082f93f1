"""OpenTelemetry tracing of the API: one span per request, as part of the caller's trace.

Enabled by OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. The other variables of OpenTelemetry apply
too: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, …
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Scope

from audio_qa.errors import InputError

if TYPE_CHECKING:  # an extra: earshot[tracing]
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class TracingError(InputError):
    """Tracing is enabled but its packages are not installed. One line."""


class Tracing:
    """The spans of this process."""

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        """Export spans to the endpoint, or to `exporter`. Raises TracingError without the packages."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415
            from opentelemetry.metrics import NoOpMeterProvider  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.trace import get_current_span  # noqa: PLC0415
        except ImportError as error:
            raise TracingError(f"{ENDPOINT} enables tracing: install earshot[tracing] ({error.name})") from error
        name = os.environ.get("OTEL_SERVICE_NAME", "earshot")
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        # The service exports its own metrics.
        self._meters = NoOpMeterProvider()
        self._middleware, self._current_span = OpenTelemetryMiddleware, get_current_span
        # The names of attributes that OpenTelemetry calls stable, such as `http.request.method`.
        os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")

    def instrument(self, app: ASGIApp) -> ASGIApp:
        """Return the app with a span around every request, in the trace that its headers name."""
        instrumented: ASGIApp = self._middleware(
            app,
            default_span_details=_span_details,
            tracer_provider=self._provider,
            meter_provider=self._meters,
            exclude_spans=["receive", "send"],
        )
        return instrumented

    def annotate(self, name: str, attributes: Mapping[str, str]) -> None:
        """Name the span of the current request. The span ends with the last part of the response."""
        span = self._current_span()
        span.update_name(name)
        span.set_attributes(attributes)

    def stop(self) -> None:
        """Export the remaining spans, within OpenTelemetry's own deadline."""
        self._provider.shutdown()


def _span_details(scope: Scope) -> tuple[str, dict[str, str]]:
    # The route is known only once the request has been routed.
    return scope.get("method", scope["type"]), {}


def tracing_of_environment() -> Tracing | None:
    """Return the tracing that the environment enables, if any. Raises TracingError."""
    return Tracing() if os.environ.get(ENDPOINT) or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") else None

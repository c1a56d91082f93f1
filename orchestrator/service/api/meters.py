"""Prometheus metrics of the API itself. Each app has its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Meters:
    """Metrics since the service started."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "earshot_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "earshot_http_request_seconds",
            "Time to the end of a response, except streams.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.streams = Gauge("earshot_http_streams", "Open streams of events and logs.", registry=self.registry)
        self.connections = Gauge("earshot_http_connections", "Open connections.", registry=self.registry)
        self.connections_ended = Counter(
            "earshot_http_connections_ended",
            "Connections that the service ended: beyond a limit, too slow, idle, or not HTTP.",
            ["reason"],
            registry=self.registry,
        )
        self.submitted = Counter("earshot_jobs_submitted", "Jobs submitted to the queue.", registry=self.registry)
        self.commands = Counter("earshot_commands", "Commands sent to jobs.", ["command"], registry=self.registry)
        self.refused = Counter(
            "earshot_requests_refused",
            "Requests refused: no valid token, or not permitted for the role.",
            registry=self.registry,
        )

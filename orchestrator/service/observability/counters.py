"""Prometheus metrics of the supervisor."""

from prometheus_client import Counter, Histogram

DRIVERS_STARTED = Counter("earshot_drivers_started_total", "Drivers submitted to Ray.")
DRIVER_RESTARTS = Counter("earshot_driver_restarts_total", "Drivers that died and are being replaced.")
PREEMPTIONS = Counter("earshot_preemptions_total", "Running jobs preempted by a job with a higher priority.")
LOOP_SECONDS = Histogram("earshot_loop_seconds", "Duration of one round of the supervisor over all jobs.")
LOOP_FAILURES = Counter(
    "earshot_loop_failures_total", "Rounds of the supervisor, or jobs within a round, that failed.", ["what"]
)
"""`what` is `database` or `cluster` (retried until available), `job` (a bug or a damaged run directory), or
`retention` (a job that cannot be removed)."""

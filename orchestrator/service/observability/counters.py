"""What the service's loop counts, for Prometheus."""

from prometheus_client import Counter, Histogram

DRIVERS_STARTED = Counter("earshot_drivers_started_total", "Drivers given to Ray.")
DRIVER_RESTARTS = Counter("earshot_driver_restarts_total", "Drivers that died and are to be replaced.")
PREEMPTIONS = Counter("earshot_preemptions_total", "Running jobs told to give way to one of higher priority.")
LOOP_SECONDS = Histogram("earshot_loop_seconds", "One round of the service's loop over all jobs.")
LOOP_FAILURES = Counter(
    "earshot_loop_failures_total", "Rounds, or jobs within one, that could not be dealt with.", ["what"]
)
"""`what` is `database` or `cluster`, which are waited for, or `job`, which is a bug or a damaged run directory."""

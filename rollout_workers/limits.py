"""Timeouts of the rollout workers, and how often they may fail."""

from pydantic import Field

from protocol.settings import Settings

GRACE_SECONDS = 15.0
"""Added by the pool to deadlines that the worker keeps itself, so that the worker reports first."""
FETCH_SECONDS = 300.0
"""Deadline for fetching an update from the object store to the worker's machine."""
HEALTH_SECONDS = 120.0
"""Deadline for the first token of a new engine."""
STOP_SECONDS = 3.0
"""Deadline for the graceful end of an engine; then its process is killed."""
PENDING_SECONDS = 5.0
"""A worker without room in the cluster is reported as pending after so long."""
HEARTBEAT_SECONDS = 5.0
"""Interval of heartbeats; shorter if `silent_seconds` is short."""


class RolloutLimits(Settings):
    """Timeouts of rollout workers, and how often they and their questions may fail before the job fails."""

    start_seconds: float = Field(default=900.0, gt=0)
    """Timeout of a worker's start, from its place in the cluster to its first token, in seconds. Includes loading the
    model."""
    request_seconds: float = Field(default=1800.0, gt=0)
    """Timeout of one question on a worker, or of a whole batch of a deterministic job, in seconds; then the question is
    retried."""
    update_seconds: float = Field(default=900.0, gt=0)
    """Timeout of a weight update of one worker, in seconds; in a deterministic job it includes waiting for running
    batches."""
    lag_seconds: float = Field(default=60.0, gt=0)
    """Time that the first worker with new weights waits for the others, in seconds. Then the job continues without the
    late workers, which rejoin once they have the weights."""
    stall_seconds: float = Field(default=30.0, gt=0)
    """Time without progress after which a weight update between GPUs is given up, in seconds."""
    silent_seconds: float = Field(default=60.0, gt=0)
    """Heartbeat timeout, in seconds: a worker without a sign of life for this long counts as hung, and is replaced."""
    drain_seconds: float = Field(default=60.0, ge=0)
    """Time that a worker which has to leave gets to finish its questions, in seconds; the rest go to other workers."""
    attempts: int = Field(default=4, ge=1)
    """Maximum number of attempts per question, before it is recorded as failed."""
    max_restarts: int = Field(default=20, ge=0)
    """Maximum number of workers replaced in a job, before it fails."""
    max_failed_in_row: int = Field(default=64, ge=1)
    """Number of consecutive questions that failed all attempts, after which the job fails: then the questions are not
    the cause."""

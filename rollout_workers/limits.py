"""What a job says about how long its rollout workers may take, and how often they may fail."""

from pydantic import BaseModel, ConfigDict, Field

GRACE_SECONDS = 15.0
"""What the pool adds to a deadline that the worker itself keeps, so that the worker's own report comes first."""
FETCH_SECONDS = 300.0
"""The bytes of an update from the object store to the worker's machine."""
HEALTH_SECONDS = 120.0
"""The first token of a new engine."""
STOP_SECONDS = 3.0
"""The orderly end of an engine; then its process is killed."""
PENDING_SECONDS = 5.0
"""A worker that the cluster has had no room for so long is reported as pending."""
HEARTBEAT_SECONDS = 5.0
"""Between two signs of life; more often where `silent_seconds` is short."""


class RolloutLimits(BaseModel):
    """Deadlines of rollout workers, and how often they and their questions may fail before the job does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start_seconds: float = Field(default=900.0, gt=0)
    """From a worker's place in the cluster to its first token, the load of the model included."""
    request_seconds: float = Field(default=1800.0, gt=0)
    """One question, from when a worker takes it, or a whole batch of a deterministic job; what takes longer is cut off
    and asked again."""
    update_seconds: float = Field(default=900.0, gt=0)
    """New weights for one worker, in a deterministic job with the wait for running batches."""
    lag_seconds: float = Field(default=60.0, gt=0)
    """How long the first worker with new weights waits for the others: the job goes on without the late ones, which
    join again once they have them."""
    silent_seconds: float = Field(default=60.0, gt=0)
    """A worker that gives no sign of life for so long counts as hung: it is killed and replaced."""
    drain_seconds: float = Field(default=60.0, ge=0)
    """What a worker that has to leave may take to finish its questions; those left go to others."""
    attempts: int = Field(default=4, ge=1)
    """How often a question is asked, before it is recorded as failed."""
    max_restarts: int = Field(default=20, ge=0)
    """How many workers are replaced in a job, before it fails."""
    max_failed_in_row: int = Field(default=64, ge=1)
    """So many questions in a row that failed in all their attempts end the job: it is not the questions then."""

"""Job states and which state may follow which."""

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    """Waits for its turn; also after it was preempted."""
    STARTING = "starting"
    """Given to Ray; its models and workers come up."""
    RUNNING = "running"
    PAUSED = "paused"
    """Its driver runs and waits between two steps."""
    RECOVERING = "recovering"
    """Between a crash, of its driver or of its learner, and its resumption."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
"""States that nothing follows."""


ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING})
"""States in which a job has, or is about to have, a driver on the cluster; it counts against the limits."""


_LEAVES_ACTIVE = ENDED | {JobState.QUEUED}


ALLOWED: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.CANCELLED, JobState.FAILED}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING}) | _LEAVES_ACTIVE,
    JobState.RUNNING: frozenset({JobState.PAUSED, JobState.RECOVERING}) | _LEAVES_ACTIVE,
    JobState.PAUSED: frozenset({JobState.RUNNING, JobState.RECOVERING}) | _LEAVES_ACTIVE,
    JobState.RECOVERING: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING}) | _LEAVES_ACTIVE,
    **{state: frozenset() for state in ENDED},
}
"""Which states may follow a state. A job is queued again when it was preempted, and recovers again when the driver dies
that was to replace another."""

"""Job states and the allowed transitions."""

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    """Waiting in the queue; also after a preemption."""
    STARTING = "starting"
    """Submitted to Ray; models and workers are loading."""
    RUNNING = "running"
    PAUSED = "paused"
    """The driver is running but waits between two steps."""
    RECOVERING = "recovering"
    """Restarting after a crash of the driver or the learner."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
"""States without a driver, in which a job stays until a user retries it."""


RETRIABLE = frozenset({JobState.FAILED, JobState.CANCELLED})
"""States from which a user may have a job queued again. It continues from its last checkpoint."""


ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING})
"""States in which a job has, or is about to have, a driver on the cluster. Such a job counts against the limits."""


_LEAVES_ACTIVE = ENDED | {JobState.QUEUED}


ALLOWED: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.CANCELLED, JobState.FAILED}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING}) | _LEAVES_ACTIVE,
    JobState.RUNNING: frozenset({JobState.PAUSED, JobState.RECOVERING}) | _LEAVES_ACTIVE,
    JobState.PAUSED: frozenset({JobState.RUNNING, JobState.RECOVERING}) | _LEAVES_ACTIVE,
    JobState.RECOVERING: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING}) | _LEAVES_ACTIVE,
    JobState.SUCCEEDED: frozenset(),
    **{state: frozenset({JobState.QUEUED}) for state in RETRIABLE},
}
"""States that may follow each state. A job is queued again after a preemption and by a retry, and `recovering` follows
itself when the replacement of a driver dies too."""

"""Jobs, their changes of state, and pages of them, as the store returns them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.schemas.job_state import JobState


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A row of the jobs table. Times are aware datetimes in UTC."""

    id: str
    name: str
    owner: str
    state: JobState
    priority: int
    """Jobs of higher priority start first."""
    spec: dict[str, Any]
    """Resolved JobSpec as JSON values."""
    gpus: float
    """GPUs counted against the limits: of all ranks and of the most workers that it scales itself to."""
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    """Time of the first submission to Ray."""
    finished_at: datetime | None
    attempt: int
    """Number of drivers started; 0 before the first."""
    restarts: int
    """Number of drivers that died and were replaced; preemptions do not count."""
    max_restarts: int
    cause: str | None
    """Reason for its state: an error and its last log lines, who cancelled it, what preempted it."""
    run_dir: str
    """Run directory; it does not exist before the first start."""
    submission_id: str | None
    """Ray job of the current attempt."""
    not_before: datetime | None
    """Start of the next driver of a recovering job; None while there is a driver."""
    cancel_requested_at: datetime | None
    preempt_requested_at: datetime | None
    """Time of the request to write a checkpoint and give way to a job of higher priority."""
    uses: tuple[str, ...] = ()
    """Ids of the jobs whose run directories it names: their files are needed until it has ended."""
    seq: int = 0
    """Its number in the order of submission."""
    removal_at: datetime | None = None
    """When the removal of the job and its files began; nothing else can be done with it then."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A queued job as scheduling needs it."""

    seq: int
    """Its number in the order of submission."""
    id: str
    owner: str
    priority: int
    gpus: float
    attempt: int

    @property
    def state(self) -> JobState:
        """Always queued."""
        return JobState.QUEUED


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a job's state."""

    from_state: JobState | None
    """None for the submission."""
    to_state: JobState
    at: datetime
    cause: str | None


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of jobs, newest first."""

    items: tuple[JobRecord, ...]
    next_cursor: str | None
    """Cursor of the next page; None at the end."""

"""A job as the service knows it, its states, and which state may follow which."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.schemas.job_state import JobState


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the store holds it. Times are aware datetimes in UTC."""

    id: str
    name: str
    owner: str
    state: JobState
    priority: int
    """Higher goes first."""
    spec: dict[str, Any]
    """The resolved JobSpec as JSON values."""
    gpus: float
    """That it counts for against limits: of all its workers and ranks, at the largest it scales itself to."""
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    """First given to Ray."""
    finished_at: datetime | None
    attempt: int
    """Drivers begun so far; 0 while it never started."""
    restarts: int
    """Drivers that died and were replaced; a preemption does not count."""
    max_restarts: int
    cause: str | None
    """Why it is in its state: an error and its last log lines, who cancelled it, what preempted it."""
    run_dir: str
    """Of the run; does not exist before the first start."""
    submission_id: str | None
    """The Ray job of the current attempt."""
    not_before: datetime | None
    """Of a recovering job that has no driver now: when the next one starts. None while there is a driver."""
    cancel_requested_at: datetime | None
    preempt_requested_at: datetime | None
    """It is to write a checkpoint and give its place to a job of higher priority."""


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
    """A part of a list of jobs, newest first."""

    items: tuple[JobRecord, ...]
    next_cursor: str | None
    """Gives the next part; None at the end."""

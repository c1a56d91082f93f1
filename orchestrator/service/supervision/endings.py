"""Decide what happens to a job whose driver has ended.

Invariant: a driver that is lost through its cluster does not use up a restart of its job, unless that happens again and
again to a job that gets nowhere, which may be what its cluster dies of: no job is started without end.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from orchestrator.run import exit_codes
from orchestrator.run.history import RunHistory
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.records import JobRecord
from orchestrator.service.supervision.runner import Driver, DriverState
from protocol.back_off import back_off

_FREE_LOSSES = 3
"""Drivers that a job may lose with its cluster since its last checkpoint without using up a restart."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The job's next state, its cause, and the other fields that change with it."""

    to: JobState
    cause: str | None
    fields: dict[str, Any] = field(default_factory=dict)


def ending_of(job: JobRecord, driver: Driver, history: RunHistory, last_lines: str, now: datetime) -> Ending:
    """Return how a job continues after its driver has ended.

    Args:
        driver: the driver as the cluster reports it; unknown if that cluster is gone.
        history: the run's history; empty if the driver wrote no events.
        last_lines: the end of the driver's log.
    """
    # Ray reports a driver that finished by itself while it was being stopped as stopped.
    if driver.exit_code == exit_codes.SUCCEEDED or (
        driver.state is DriverState.STOPPED and history.state == JobState.SUCCEEDED
    ):
        return Ending(JobState.SUCCEEDED, None)
    if job.cancel_requested_at is not None:
        return Ending(JobState.CANCELLED, job.cause)
    if job.preempt_requested_at is not None:
        return Ending(JobState.QUEUED, job.cause, {"preempt_requested_at": None, "submission_id": None})
    if driver.state is DriverState.STOPPED or driver.exit_code == exit_codes.CANCELLED:
        return Ending(JobState.CANCELLED, "stopped from outside the service")
    if driver.exit_code in (exit_codes.FAILED, exit_codes.BAD_INPUT):
        return Ending(JobState.FAILED, _explain(history.error or "the driver failed", last_lines))
    return _crash(job, driver, history, last_lines, now)


def _crash(job: JobRecord, driver: Driver, history: RunHistory, last_lines: str, now: datetime) -> Ending:
    """Return the ending of a driver that died without an exit code of its own."""
    crash = _describe(driver, history)
    # A driver that wrote no event did nothing that its cluster could die of.
    losses = history.unproductive if history.attempts else 0
    if _was_lost(driver) and losses <= _FREE_LOSSES:
        pause = back_off(max(job.restarts, losses - 1 if history.attempts else job.attempt))
        cause = f"{crash}; this is not counted as a restart"
        return Ending(JobState.RECOVERING, cause, {"not_before": now + timedelta(seconds=pause)})
    if job.restarts >= job.max_restarts:
        budget = f"all {job.max_restarts} restarts are used up" if job.max_restarts else "it may not be restarted"
        return Ending(JobState.FAILED, _explain(f"{crash}; {budget}", last_lines))
    return Ending(
        JobState.RECOVERING,
        f"{crash}; restart {job.restarts + 1} of {job.max_restarts}",
        {"restarts": job.restarts + 1, "not_before": now + timedelta(seconds=back_off(job.restarts))},
    )


def _was_lost(driver: Driver) -> bool:
    """Return whether the driver was lost through its cluster, and not by what it did itself."""
    return driver.exit_code == exit_codes.NOT_BEGUN or (
        driver.exit_code is None and driver.state in (DriverState.UNKNOWN, DriverState.ENDED)
    )


def _describe(driver: Driver, history: RunHistory) -> str:
    if driver.state is DriverState.UNKNOWN:
        return "the driver was lost with its Ray cluster"
    if driver.exit_code is None:
        return f"the driver died ({driver.message.splitlines()[0] if driver.message else 'Ray does not report how'})"
    if driver.exit_code < 0:
        return f"the driver was killed by signal {-driver.exit_code}"
    if driver.exit_code == exit_codes.NOT_BEGUN:
        return f"the driver could not begin ({history.error or 'an earlier one still ran'})"
    if driver.exit_code == exit_codes.LOST and history.error:
        return f"the driver lost its cluster or its storage ({history.error})"
    return f"the driver ended with exit code {driver.exit_code}"


def _explain(cause: str, last_lines: str) -> str:
    return f"{cause}\n\nThe last lines of its log:\n{last_lines}" if last_lines.strip() else cause

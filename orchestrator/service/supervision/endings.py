"""What becomes of a job whose driver has ended."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from orchestrator.run import exit_codes as driver_exit
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.records import JobRecord
from orchestrator.service.supervision.run_view import RunView
from orchestrator.service.supervision.runner import Driver, DriverState

_FIRST_BACK_OFF_SECONDS = 1.0
_LONGEST_BACK_OFF_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ending:
    """The job's next state, why, and what else changes with it."""

    to: JobState
    cause: str | None
    fields: dict[str, Any] = field(default_factory=dict)


def ending_of(job: JobRecord, driver: Driver, view: RunView, last_lines: str, now: datetime) -> Ending:
    """
    Args:
        driver: as the cluster tells it; unknown where the cluster that ran it is gone.
        view: as the run's events tell it; empty if the driver did not get so far as to write any.
        last_lines: of what the driver printed.
    """
    # Ray calls a driver stopped that came to its end by itself while it was being stopped.
    if driver.exit_code == driver_exit.SUCCEEDED or (
        driver.state is DriverState.STOPPED and view.state == JobState.SUCCEEDED
    ):
        return Ending(JobState.SUCCEEDED, None)
    if job.cancel_requested_at is not None:
        return Ending(JobState.CANCELLED, job.cause)
    if job.preempt_requested_at is not None:
        return Ending(JobState.QUEUED, job.cause, {"preempt_requested_at": None, "submission_id": None})
    if driver.state is DriverState.STOPPED or driver.exit_code == driver_exit.CANCELLED:
        return Ending(JobState.CANCELLED, "stopped from outside the service")
    if driver.exit_code in (driver_exit.FAILED, driver_exit.BAD_INPUT):
        return Ending(JobState.FAILED, _explain(view.error or "the driver failed", last_lines))
    return _death(job, driver, view, last_lines, now)


def back_off_seconds(restarts: int) -> float:
    """How long to wait before a driver is started again that was restarted so often before."""
    return float(min(_LONGEST_BACK_OFF_SECONDS, _FIRST_BACK_OFF_SECONDS * 2 ** min(restarts, 16)))


def _death(job: JobRecord, driver: Driver, view: RunView, last_lines: str, now: datetime) -> Ending:
    """A driver that did not say what came of it."""
    died = _how_it_died(driver, view)
    if job.restarts >= job.max_restarts:
        budget = f"all {job.max_restarts} restarts are used up" if job.max_restarts else "it may not be restarted"
        return Ending(JobState.FAILED, _explain(f"{died}; {budget}", last_lines))
    return Ending(
        JobState.RECOVERING,
        f"{died}; restart {job.restarts + 1} of {job.max_restarts}",
        {"restarts": job.restarts + 1, "not_before": now + timedelta(seconds=back_off_seconds(job.restarts))},
    )


def _how_it_died(driver: Driver, view: RunView) -> str:
    if driver.state is DriverState.UNKNOWN:
        return "the driver went away with its Ray cluster"
    if driver.exit_code is None:
        return f"the driver died ({driver.message.splitlines()[0] if driver.message else 'Ray does not say how'})"
    if driver.exit_code < 0:
        return f"the driver was killed by signal {-driver.exit_code}"
    if driver.exit_code == driver_exit.LOST and view.error:
        return f"the driver lost its cluster or its storage ({view.error})"
    return f"the driver ended with exit code {driver.exit_code}"


def _explain(what: str, last_lines: str) -> str:
    return f"{what}\n\nThe last lines of its log:\n{last_lines}" if last_lines.strip() else what

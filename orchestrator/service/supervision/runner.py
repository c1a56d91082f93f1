"""The interface to whatever runs drivers: `RayRunner` on a cluster, a fake in the scheduler's tests.

Invariant: at most one driver is ever started per submission id, however often it is requested.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from orchestrator.service.supervision.limits import Capacity


class DriverState(StrEnum):
    """State of a driver on the cluster."""

    UNKNOWN = "unknown"
    """Never submitted, or submitted to a cluster that is gone."""
    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    """Stopped on request."""
    ENDED = "ended"
    """Ended by itself, or killed."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A submission as the cluster reports it."""

    state: DriverState
    exit_code: int | None = None
    """Exit code of the process; negative for a signal, None if unknown or still running."""
    message: str = ""


class Runner(Protocol):
    """Starts and stops drivers. Every method raises ClusterUnavailableError if the cluster does not answer in time."""

    async def start(self, submission_id: str, run_dir: Path) -> None:
        """Start a driver for the job of a run directory. Does nothing if this submission was started before."""

    async def status(self, submission_id: str) -> Driver:
        """Return the current state of a submission."""

    async def stop(self, submission_id: str) -> None:
        """Stop a driver gracefully, and kill it if it does not end. Does nothing if it has ended."""

    async def capacity(self) -> Capacity:
        """Return the total resources of the cluster."""

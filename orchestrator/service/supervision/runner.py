"""What the service needs of whatever runs drivers: `RayRunner` on a cluster, a stand-in in the scheduler's tests.

Invariant: of one submission id at most one driver is ever started, however often and by whomever it is asked for.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from orchestrator.service.supervision.limits import Capacity


class DriverState(StrEnum):
    UNKNOWN = "unknown"
    """Never submitted, or the cluster that knew it is gone."""
    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    """Ended because somebody asked for it."""
    ENDED = "ended"
    """By itself, or killed."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What the cluster says of a submission."""

    state: DriverState
    exit_code: int | None = None
    """Of the process; negative for a signal, None if unknown or not ended."""
    message: str = ""


class Runner(Protocol):
    """Every method raises ClusterUnavailableError within a deadline while the cluster does not answer."""

    async def start(self, submission_id: str, run_dir: Path) -> None:
        """Have a driver run the job of a run directory. Does nothing if this submission was started before."""

    async def look(self, submission_id: str) -> Driver:
        """What has become of a submission."""

    async def stop(self, submission_id: str) -> None:
        """Ask a driver to end in order, and kill it if it does not. Does nothing if it has ended."""

    async def capacity(self) -> Capacity:
        """What the cluster has."""

"""The cluster as the service shows it: its nodes, their GPUs, and which jobs use them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from audio_qa.errors import EarshotError


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources of a node that a job has reserved."""

    job: str
    """Id of the job, or of the Ray job if it is not the service's."""
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A machine of the cluster."""

    id: str
    address: str
    alive: bool
    cpus: float
    gpus: float
    gpu_type: str | None
    memory_bytes: int
    uses: tuple[Usage, ...]


class Cluster(Protocol):
    """A view of the cluster."""

    async def nodes(self) -> Sequence[ClusterNode]:
        """Return every node, within seconds. Raises ClusterUnavailableError."""


class ClusterUnavailableError(EarshotError):
    """The cluster did not answer; the request may have been carried out all the same. The message is one line."""

    def __init__(self, message: str, summary: str = "it does not answer") -> None:
        """
        Args:
            summary: the message without paths, addresses and what other programs wrote: anyone may read it.
        """
        super().__init__(message)
        self.summary = summary

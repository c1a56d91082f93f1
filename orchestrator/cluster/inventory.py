"""The cluster as the service shows it: nodes, their GPUs, and which job has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Use:
    """What a job has of a node."""

    job: str
    """Id of the job, or of the Ray job where it is none of the service's."""
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
    uses: tuple[Use, ...]


class Cluster(Protocol):
    """A way to look at the cluster."""

    async def nodes(self) -> Sequence[ClusterNode]:
        """Every node, within seconds. Raises ClusterUnavailableError."""


class ClusterUnavailableError(RuntimeError):
    """The cluster did not answer; what was asked for may have happened all the same. The message is one line."""

"""Messages about weight updates from the learner to the rollout workers. A carrier transfers the bytes separately."""

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray import ObjectRef
    from typing_extensions import Buffer


class Carrier(StrEnum):
    """The way by which the bytes of a weight update travel from the learner to the rollout workers."""

    SHARED_MEMORY = "shared_memory"
    """Shared memory of the learner's machine; workers on other machines use the object store."""
    OBJECT_STORE = "object_store"
    """Ray's object store: for any worker, at any time."""
    NCCL = "nccl"
    """A broadcast from the first learner rank to all engines, between GPUs."""
    CUDA_IPC = "cuda_ipc"
    """Memory of a GPU that is shared by a learner rank and an engine."""


def digest(data: "Buffer") -> str:
    """Return the `TensorSlot.digest` of a parameter's bytes, which learner and engine both compute."""
    return blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """One parameter of a bucket."""

    name: str
    """Canonical name in the checkpoint, e.g. `language_model.model.layers.0.mlp.up_proj.weight`."""
    dtype: str
    """Name of the torch dtype without its prefix: `float32`, `bfloat16`."""
    shape: tuple[int, ...]
    nbytes: int
    digest: str | None = None
    """Digest of the bytes, if the job verifies checksums: the engine compares it with the bytes that it loads."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Parameters that are transferred together."""

    slots: tuple[TensorSlot, ...]
    data: "ObjectRef | None"
    """Reference to a list of uint8 arrays in the object store, the bytes of each slot; None with other carriers."""


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """One version of the learner's trained parameters; always the same parameters within a job."""

    version: int
    buckets: tuple[Bucket, ...]
    audio_changed: bool
    """True if the audio tower or the projector changed, which makes the engines' cached audio embeddings stale."""
    nbytes: int
    carrier: Carrier = Carrier.OBJECT_STORE
    machine: str = ""
    """With shared memory: name of the machine (`protocol.announcement.machine`)."""
    address: str = ""
    """With shared memory: address of the socket that announces the update to workers of the machine."""
    announced: int = 0
    """With shared memory: number of the announcement."""
    held_by: frozenset[str] = frozenset()
    """Names of the workers that already have the update: with shared memory they need no request to take it."""

"""Messages that carry the learner's weights to the rollout workers. The bytes travel beside them, by a carrier."""

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray import ObjectRef
    from typing_extensions import Buffer


class Carrier(StrEnum):
    """What takes the bytes of an update from the learner to the rollout workers."""

    SHARED_MEMORY = "shared_memory"
    """Memory of the learner's machine that its workers map; those elsewhere take the object store."""
    OBJECT_STORE = "object_store"
    """Ray's object store, which is shared memory between processes of a machine: any worker, at any time."""
    NCCL = "nccl"
    """A broadcast from the first learner rank to all engines at once, from GPU to GPU."""
    CUDA_IPC = "cuda_ipc"
    """Memory of a GPU that a learner rank and an engine share."""


def digest(data: "Buffer") -> str:
    """What `TensorSlot.digest` is of a parameter's bytes: learner and engine both work it out."""
    return blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """One parameter of a bucket."""

    name: str
    """The checkpoint's canonical name, e.g. `language_model.model.layers.0.mlp.up_proj.weight`."""
    dtype: str
    """torch's name without the prefix: `float32`, `bfloat16`."""
    shape: tuple[int, ...]
    nbytes: int
    digest: str | None = None
    """Of the bytes, where the job checks them: the engine compares it with what it is about to load."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some parameters that travel together."""

    slots: tuple[TensorSlot, ...]
    data: "ObjectRef | None"
    """In the object store: a list of arrays of uint8, the bytes of each slot. None where another carrier has them."""


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """One version of the learner's trained parameters: all of those that train, always the same ones in a job."""

    version: int
    buckets: tuple[Bucket, ...]
    audio_changed: bool
    """Whether the audio tower or the projector changed: only then the engines' audio embeddings are stale."""
    nbytes: int
    carrier: Carrier = Carrier.OBJECT_STORE
    machine: str = ""
    """In shared memory: whose, as `protocol.announcement.machine` names it."""
    address: str = ""
    """In shared memory: where workers of that machine hear of it."""
    announced: int = 0
    """In shared memory: the number of its announcement there."""
    held_by: frozenset[str] = frozenset()
    """The workers that have it already, by name: in shared memory they need not be asked to take it."""

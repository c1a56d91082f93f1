"""Messages that carry the learner's weights to the rollout workers. The bytes travel through Ray's object store."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray import ObjectRef


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """Where one parameter lies in a bucket."""

    name: str
    """The checkpoint's canonical name, e.g. `language_model.model.layers.0.mlp.up_proj.weight`."""
    dtype: str
    """torch's name without the prefix: `float32`, `bfloat16`."""
    shape: tuple[int, ...]
    offset: int
    """First byte in the bucket, a multiple of 64."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some parameters, packed one behind the other into one array of bytes."""

    slots: tuple[TensorSlot, ...]
    data: "ObjectRef"
    """A numpy array of uint8 in the object store."""


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """One version of the learner's trained parameters."""

    version: int
    buckets: tuple[Bucket, ...]
    audio_changed: bool
    """Whether the audio tower or the projector changed: only then the engines' audio embeddings are stale."""
    nbytes: int

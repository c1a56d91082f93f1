"""Publish the trainable weights through Ray's object store, bucket by bucket, for the rollout workers to fetch.

Invariant: a rank never holds more than one gathered bucket of weights. The ranks take turns putting buckets.
"""

from collections.abc import Sequence

import numpy as np
import ray
import torch
from torch import distributed
from transformers import PreTrainedModel

from learner.families.family import Family, Part
from learner.messages import NumberedBucket
from learner.model.weights import Weight, in_buckets, weights_of
from learner.training.engine import TrainingEngine
from protocol.weights import Bucket, TensorSlot, digest

BUCKET_BYTES = 64 * 2**20


def publish(
    engine: TrainingEngine,
    family: Family,
    model: PreTrainedModel,
    bucket_bytes: int = BUCKET_BYTES,
    *,
    checksums: bool = False,
) -> list[NumberedBucket]:
    """Publish every trainable weight. All ranks must call it together.

    Args:
        checksums: add digests, which the engines verify.

    Returns:
        The buckets that this rank has put.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    put: list[NumberedBucket] = []
    for i, bucket in enumerate(in_buckets(trainable_weights(family, model), bucket_bytes)):
        with engine.gathered([p for weight in bucket for p in weight.parameters]):
            if i % ranks == rank:
                slots, arrays = _pack(bucket, checksums=checksums)
                put.append(NumberedBucket(i, Bucket(slots, ray.put(arrays)), changes_audio(family, bucket)))
    return put


def trainable_weights(family: Family, model: PreTrainedModel) -> list[Weight]:
    """Return the weights that train, in order: those that are published."""
    return [weight for weight in weights_of(family, model) if weight.trainable]


def changes_audio(family: Family, weights: Sequence[Weight]) -> bool:
    """Return whether any of the weights belongs to the audio tower or the projector."""
    return any(family.part(weight.name) is not Part.LANGUAGE_MODEL for weight in weights)


def slot_of(name: str, value: torch.Tensor, *, checksum: bool) -> TensorSlot:
    """Return the description of a published weight."""
    dtype = str(value.dtype).removeprefix("torch.")
    checked = digest(_bytes(value).data) if checksum else None
    return TensorSlot(name, dtype, tuple(value.shape), value.nbytes, checked)


def _pack(bucket: Sequence[Weight], *, checksums: bool) -> tuple[tuple[TensorSlot, ...], list[np.ndarray]]:
    """Return slots and bytes of a bucket's weights. The bytes are not copied: only the store copies them."""
    values = [weight.value() for weight in bucket]
    slots = [slot_of(w.name, value, checksum=checksums) for w, value in zip(bucket, values, strict=True)]
    return tuple(slots), [_bytes(value) for value in values]


def _bytes(value: torch.Tensor) -> np.ndarray:
    """Return the bytes of a tensor, shape (nbytes,): a view if it is contiguous on the CPU."""
    return value.to("cpu").contiguous().view(-1).view(torch.uint8).numpy()

"""Puts the weights that train into Ray's object store, bucket by bucket, for the rollout workers to fetch.

Invariant: at no time is more than one bucket of weights gathered on a rank. The ranks take turns in putting buckets.
"""

from collections.abc import Sequence

import numpy as np
import ray
import torch
from torch import distributed
from transformers import PreTrainedModel

from learner.engine import TrainingEngine
from learner.families.family import Family, Part
from learner.phase import PlacedBucket
from learner.weights import Weight, lots, weights_of
from protocol.weights import Bucket, TensorSlot

BUCKET_BYTES = 64 * 2**20
_ALIGNMENT = 64


def publish(
    engine: TrainingEngine, family: Family, model: PreTrainedModel, bucket_bytes: int = BUCKET_BYTES
) -> list[PlacedBucket]:
    """Publish every weight that trains. All ranks must call it together.

    Returns:
        The buckets that this rank has put.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    trained = [weight for weight in weights_of(family, model) if weight.trains]
    put: list[PlacedBucket] = []
    for i, lot in enumerate(lots(trained, bucket_bytes)):
        with engine.whole([p for weight in lot for p in weight.parameters]):
            if i % ranks == rank:
                slots, data = _pack(lot)
                audio = any(family.part(weight.name) is not Part.LANGUAGE_MODEL for weight in lot)
                put.append(PlacedBucket(i, Bucket(slots, ray.put(data)), audio))
    return put


def _pack(lot: Sequence[Weight]) -> tuple[tuple[TensorSlot, ...], np.ndarray]:
    slots: list[TensorSlot] = []
    values: list[torch.Tensor] = []
    end = 0
    for weight in lot:
        value = weight.value()
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        dtype = str(value.dtype).removeprefix("torch.")
        slots.append(TensorSlot(weight.name, dtype, tuple(value.shape), start, value.nbytes))
        values.append(value)
        end = start + value.nbytes
    data = np.zeros(end, dtype=np.uint8)
    for slot, value in zip(slots, values, strict=True):
        flat = value.to("cpu").contiguous().view(-1).view(torch.uint8)
        data[slot.offset : slot.offset + slot.nbytes] = flat.numpy()
    return tuple(slots), data

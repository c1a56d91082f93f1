"""Puts the weights that train into Ray's object store, bucket by bucket, for the rollout workers to fetch.

Invariant: at no time is more than one bucket of weights gathered on a rank. The ranks take turns in putting buckets.
"""

from collections.abc import Sequence

import numpy as np
import ray
import torch
from torch import distributed
from transformers import PreTrainedModel

from learner.families.family import Family, Part
from learner.model.weights import Weight, lots, weights_of
from learner.phase import PlacedBucket
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
) -> list[PlacedBucket]:
    """Publish every weight that trains. All ranks must call it together.

    Args:
        checksums: have the engines check what arrives.

    Returns:
        The buckets that this rank has put.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    put: list[PlacedBucket] = []
    for i, lot in enumerate(lots(trained(family, model), bucket_bytes)):
        with engine.whole([p for weight in lot for p in weight.parameters]):
            if i % ranks == rank:
                slots, arrays = _pack(lot, checksums=checksums)
                put.append(PlacedBucket(i, Bucket(slots, ray.put(arrays)), changes_audio(family, lot)))
    return put


def trained(family: Family, model: PreTrainedModel) -> list[Weight]:
    """What is published, in order: all that trains."""
    return [weight for weight in weights_of(family, model) if weight.trains]


def changes_audio(family: Family, weights: Sequence[Weight]) -> bool:
    """Whether some of the weights decide what is heard: the audio tower's and the projector's."""
    return any(family.part(weight.name) is not Part.LANGUAGE_MODEL for weight in weights)


def slot_of(name: str, value: torch.Tensor, *, checksum: bool) -> TensorSlot:
    """What is said of a weight on its way."""
    dtype = str(value.dtype).removeprefix("torch.")
    found = digest(_bytes(value).data) if checksum else None
    return TensorSlot(name, dtype, tuple(value.shape), value.nbytes, found)


def _pack(lot: Sequence[Weight], *, checksums: bool) -> tuple[tuple[TensorSlot, ...], list[np.ndarray]]:
    """The slots of some weights, and their bytes where they are: they are copied once, into the store."""
    values = [weight.value() for weight in lot]
    slots = [slot_of(w.name, value, checksum=checksums) for w, value in zip(lot, values, strict=True)]
    return tuple(slots), [_bytes(value) for value in values]


def _bytes(value: torch.Tensor) -> np.ndarray:
    """Shape (nbytes,): a view where the tensor lies on the CPU in one piece."""
    return value.to("cpu").contiguous().view(-1).view(torch.uint8).numpy()

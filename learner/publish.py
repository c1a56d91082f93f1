"""Puts the trained parameters into Ray's object store, bucket by bucket, for the rollout workers to fetch."""

from collections.abc import Iterator, Sequence

import numpy as np
import ray
import torch
from torch import distributed, nn
from transformers import PreTrainedModel

from learner.engine import TrainingEngine
from learner.names import is_audio, named_canonical
from protocol.weights import Bucket, TensorSlot, WeightUpdate

BUCKET_BYTES = 64 * 2**20
_ALIGNMENT = 64


def _buckets(parameters: Sequence[tuple[str, nn.Parameter]]) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Parameters in order, in lots of at most `BUCKET_BYTES` (at least one each)."""
    lot: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in parameters:
        # Under ZeRO-3 a parameter's own storage is empty; its full size is noted beside it.
        nbytes = int(getattr(parameter, "ds_numel", parameter.numel())) * parameter.element_size()
        if lot and size + nbytes > BUCKET_BYTES:
            yield lot
            lot, size = [], 0
        lot.append((name, parameter))
        size += nbytes
    if lot:
        yield lot


def _pack(lot: Sequence[tuple[str, nn.Parameter]]) -> tuple[tuple[TensorSlot, ...], np.ndarray]:
    slots: list[TensorSlot] = []
    end = 0
    for name, parameter in lot:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        nbytes = parameter.numel() * parameter.element_size()
        dtype = str(parameter.dtype).removeprefix("torch.")
        slots.append(TensorSlot(name, dtype, tuple(parameter.shape), start, nbytes))
        end = start + nbytes
    data = np.zeros(end, dtype=np.uint8)
    for slot, (_, parameter) in zip(slots, lot, strict=True):
        flat = parameter.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
        data[slot.offset : slot.offset + slot.nbytes] = flat.numpy()
    return tuple(slots), data


def publish(engine: TrainingEngine, model: PreTrainedModel, version: int) -> WeightUpdate | None:
    """Publish every parameter that trains. All ranks must call it together; rank 0 gets the update, others None.

    No rank ever holds more than one bucket of gathered parameters.
    """
    trained = [(name, p) for name, p in named_canonical(model) if p.requires_grad]
    first = distributed.get_rank() == 0
    buckets: list[Bucket] = []
    for lot in _buckets(trained):
        with engine.whole([p for _, p in lot]):
            if first:
                slots, data = _pack(lot)
                buckets.append(Bucket(slots, ray.put(data)))
    if not first:
        return None
    nbytes = sum(slot.nbytes for bucket in buckets for slot in bucket.slots)
    return WeightUpdate(version, tuple(buckets), any(is_audio(name) for name, _ in trained), nbytes)

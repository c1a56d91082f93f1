"""The tensors of one bucket, as views of shared memory."""

import warnings
from collections.abc import Iterable

import torch

from protocol.weights import digest
from rollout_workers.engine.segment import Mapper

with warnings.catch_warnings():
    # torch warns once per process about read-only memory, which is intended here.
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)

Place = tuple[str, str, list[int], int]
"""Name (the checkpoint's), dtype, shape and first byte of a tensor."""


def tensors(mapper: Mapper, path: str, places: Iterable[Place]) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors at some places of a `rollout_workers.engine.segment`, by name. Read only."""
    slots = [(name, getattr(torch, dtype), torch.Size(shape), offset) for name, dtype, shape, offset in places]
    first = min(offset for *_, offset in slots)
    end = max(offset + shape.numel() * dtype.itemsize for _, dtype, shape, offset in slots)
    memory, start = mapper.map(path, first, end)
    return [
        (name, torch.frombuffer(memory, dtype=dtype, count=shape.numel(), offset=offset - start).view(shape))
        for name, dtype, shape, offset in slots
    ]


def digest_of(tensor: torch.Tensor) -> str:
    """Return `protocol.weights.digest` of a tensor's bytes."""
    return digest(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)

"""The tensors of one bucket, as views of the memory that carries it."""

import warnings
from collections.abc import Iterable, Iterator

import torch

from protocol.weights import digest
from rollout_workers.segment import Mapper

Place = tuple[str, str, list[int], int]
"""Name (the checkpoint's), dtype, shape and first byte of a tensor."""


def tensors(mapper: Mapper, path: str, places: Iterable[Place]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors at some places of the memory that `rollout_workers.segment` offers, by name; to be read only."""
    slots = [(name, getattr(torch, dtype), torch.Size(shape), offset) for name, dtype, shape, offset in places]
    first = min(offset for *_, offset in slots)
    end = max(offset + shape.numel() * dtype.itemsize for _, dtype, shape, offset in slots)
    memory, start = mapper.map(path, first, end)
    for name, dtype, shape, offset in slots:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            values = torch.frombuffer(memory, dtype=dtype, count=shape.numel(), offset=offset - start)
        yield name, values.view(shape)


def digest_of(tensor: torch.Tensor) -> str:
    """`protocol.weights.digest` of a tensor's bytes."""
    return digest(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)

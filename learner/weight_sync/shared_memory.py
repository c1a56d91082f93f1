"""Publish the trainable weights in shared memory that the rollout workers of this machine map.

Invariant: a memory file that is being written is neither announced nor read. There are two files that take turns, and
one more for each worker that hangs while reading. They are anonymous, and freed when the last process closes them.
"""

import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn

from learner.model.weights import Weight, in_buckets
from learner.weight_sync.announcer import Announcer
from learner.weight_sync.publish import BUCKET_BYTES
from protocol.announcement import MEMORY_FILE, PlacedTensor, description, machine
from protocol.weights import Carrier, TensorSlot, WeightUpdate, digest

PATIENCE_SECONDS = 0.25
"""Seconds that a publication waits for workers to load the weights. The pool syncs the slower ones itself."""
_ALIGNMENT = 64
_NO_DIGEST = digest(b"")

Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[None]]
"""A context in which the given parameters are gathered; all ranks enter it together."""


class SharedMemoryPublisher:
    """The publisher of the first rank. The other ranks only take part in gathering: see `gather`."""

    def __init__(self) -> None:
        self._machine, self._announcer = machine(), Announcer()
        self._files: list[_File] = []
        self._layout: _Layout | None = None

    def publish(
        self, weights: Sequence[Weight], gathered: Gather, version: int, *, audio_changed: bool, checksums: bool = False
    ) -> WeightUpdate:
        """Copy all weights into unread memory, and announce them. With `checksums` the engines verify them."""
        # The layout is the same for every version; computing it takes a tenth of the copy of a small model.
        if self._layout is None or not self._layout.matches(weights, checksums=checksums):
            self._layout = _Layout.of(weights, checksums=checksums)
        layout = self._layout
        file = self._unread_file(layout.end + len(layout.text))
        slots = iter(layout.placed)
        for bucket in in_buckets(weights, BUCKET_BYTES):
            with gathered([p for weight in bucket for p in weight.parameters]):
                for weight in bucket:
                    file.tensor(next(slots)).copy_(weight.value())
        if checksums:
            layout = layout.with_digests(file)
        file.write(layout.text, layout.end)
        number, held_by = self._announcer.announce(
            file.descriptor,
            version,
            (layout.end, len(layout.text)),
            audio_changed=audio_changed,
            patience=PATIENCE_SECONDS,
        )
        return WeightUpdate(
            version,
            (),
            audio_changed,
            sum(p.slot.nbytes for p in layout.placed),
            Carrier.SHARED_MEMORY,
            machine=self._machine,
            address=self._announcer.address,
            announced=number,
            held_by=held_by,
        )

    def close(self) -> None:
        self._announcer.close()
        for file in self._files:
            file.close()
        self._files.clear()

    def _unread_file(self, nbytes: int) -> "_File":
        """Return a file of this size without readers: an old one, whose pages are already allocated, or a new one."""
        free = [file for file in self._files if not self._announcer.is_read(file.descriptor)]
        chosen = next((file for file in free if file.nbytes == nbytes), None)
        if chosen is None:
            chosen = _File(nbytes)
            self._files.append(chosen)
        for file in free:
            if file is not chosen:
                self._files.remove(file)
                file.close()
        return chosen


def gather(weights: Sequence[Weight], gathered: Gather) -> None:
    """Take part in gathering on a rank that does not publish: under ZeRO-3 each rank has a part of every weight."""
    for bucket in in_buckets(weights, BUCKET_BYTES):
        with gathered([p for weight in bucket for p in weight.parameters]):
            pass


class _File:
    """A memory file, mapped for writing."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.descriptor = os.memfd_create(MEMORY_FILE)
        os.truncate(self.descriptor, nbytes)
        self._memory = mmap.mmap(self.descriptor, nbytes)

    def tensor(self, placed: PlacedTensor) -> torch.Tensor:
        slot = placed.slot
        count = torch.Size(slot.shape).numel()
        flat = torch.frombuffer(self._memory, dtype=getattr(torch, slot.dtype), count=count, offset=placed.offset)
        return flat.view(slot.shape)

    def digest(self, placed: PlacedTensor) -> str:
        return digest(memoryview(self._memory)[placed.offset : placed.offset + placed.slot.nbytes])

    def write(self, text: bytes, start: int) -> None:
        self._memory[start : start + len(text)] = text

    def close(self) -> None:
        """Close this process's descriptor and mapping. Other processes keep theirs."""
        os.close(self.descriptor)
        self._memory.close()


@dataclass(frozen=True, slots=True)
class _Layout:
    """The position of each weight in a file."""

    placed: list[PlacedTensor]
    """Weights in the order of writing. Placeholder digests have the length of real ones."""
    end: int
    """First byte after the weights, where their description starts."""
    text: bytes

    @classmethod
    def of(cls, weights: Sequence[Weight], *, checksums: bool) -> Self:
        placed, end = [], 0
        for weight in weights:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            slot = TensorSlot(*_identity(weight), weight.nbytes, _NO_DIGEST if checksums else None)
            placed.append(PlacedTensor(slot, start))
            end = start + weight.nbytes
        return cls(placed, end, _encoded(placed))

    def matches(self, weights: Sequence[Weight], *, checksums: bool) -> bool:
        digest = _NO_DIGEST if checksums else None
        own = [(p.slot.name, p.slot.dtype, p.slot.shape, p.slot.digest) for p in self.placed]
        return own == [(*_identity(weight), digest) for weight in weights]

    def with_digests(self, file: "_File") -> Self:
        """Return the layout with the digests of a file's contents."""
        placed = [replace(p, slot=replace(p.slot, digest=file.digest(p))) for p in self.placed]
        return replace(self, placed=placed, text=_encoded(placed))


def _identity(weight: Weight) -> tuple[str, str, tuple[int, ...]]:
    return weight.name, str(weight.parameters[0].dtype).removeprefix("torch."), weight.shape


def _encoded(placed: Sequence[PlacedTensor]) -> bytes:
    """Encode the description in reverse order of writing: readers start with what is still in the CPU cache."""
    return description(placed[::-1])

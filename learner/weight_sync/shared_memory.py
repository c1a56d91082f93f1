"""Puts the weights that train into memory that the rollout workers of this machine map, and tells them.

Invariant: what is being written is announced to nobody, and read by nobody. So there are two memory files in turn, and
one more for each worker that hangs while it reads. They have no names, and go with the last process that has them.
"""

import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn

from learner.model.weights import Weight, lots
from learner.weight_sync.announcer import Announcer
from learner.weight_sync.publish import BUCKET_BYTES
from protocol.announcement import MEMORY_FILE, PlacedTensor, description, machine
from protocol.weights import Carrier, TensorSlot, WeightUpdate, digest

PATIENCE_SECONDS = 0.25
"""What a publication waits for the workers to have the weights. Whoever takes longer is asked by the pool."""
_ALIGNMENT = 64
_NO_DIGEST = digest(b"")

Whole = Callable[[Sequence[nn.Parameter]], AbstractContextManager[None]]
"""Within it, parameters are whole; called by all ranks together."""


class SharedMemoryPublisher:
    """The first rank's. The other ranks only gather with it: see `gather`."""

    def __init__(self) -> None:
        self._machine, self._announcer = machine(), Announcer()
        self._files: list[_File] = []
        self._layout: _Layout | None = None

    def publish(
        self, weights: Sequence[Weight], whole: Whole, version: int, *, audio_changed: bool, checksums: bool = False
    ) -> WeightUpdate:
        """Copy all weights into memory that nobody reads, and announce them; `checksums` has the engines check them."""
        # The same in every version; working it out takes a tenth as long as copying a small model.
        if self._layout is None or not self._layout.is_of(weights, checksums=checksums):
            self._layout = _Layout.of(weights, checksums=checksums)
        layout = self._layout
        file = self._unread(layout.end + len(layout.text))
        places = iter(layout.placed)
        for lot in lots(weights, BUCKET_BYTES):
            with whole([p for weight in lot for p in weight.parameters]):
                for weight in lot:
                    file.tensor(next(places)).copy_(weight.value())
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

    def _unread(self, nbytes: int) -> "_File":
        """A file of this size that nobody reads: an old one, whose pages are there already, or a new one."""
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


def gather(weights: Sequence[Weight], whole: Whole) -> None:
    """What the ranks do that do not publish: under ZeRO-3 each has a part of every weight."""
    for lot in lots(weights, BUCKET_BYTES):
        with whole([p for weight in lot for p in weight.parameters]):
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
        """Others that have it keep it."""
        os.close(self.descriptor)
        self._memory.close()


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where each weight goes."""

    placed: list[PlacedTensor]
    """In the order in which they are written. A digest is as long as those to come."""
    end: int
    """The first byte behind them, where they are described."""
    text: bytes

    @classmethod
    def of(cls, weights: Sequence[Weight], *, checksums: bool) -> Self:
        placed, end = [], 0
        for weight in weights:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            slot = TensorSlot(*_kind(weight), weight.nbytes, _NO_DIGEST if checksums else None)
            placed.append(PlacedTensor(slot, start))
            end = start + weight.nbytes
        return cls(placed, end, _text(placed))

    def is_of(self, weights: Sequence[Weight], *, checksums: bool) -> bool:
        digest = _NO_DIGEST if checksums else None
        mine = [(p.slot.name, p.slot.dtype, p.slot.shape, p.slot.digest) for p in self.placed]
        return mine == [(*_kind(weight), digest) for weight in weights]

    def with_digests(self, file: "_File") -> Self:
        """With those of what is in a file."""
        placed = [replace(p, slot=replace(p.slot, digest=file.digest(p))) for p in self.placed]
        return replace(self, placed=placed, text=_text(placed))


def _kind(weight: Weight) -> tuple[str, str, tuple[int, ...]]:
    return weight.name, str(weight.parameters[0].dtype).removeprefix("torch."), weight.shape


def _text(placed: Sequence[PlacedTensor]) -> bytes:
    """Described backwards, as they are read then: what was written last is still in the processor's cache."""
    return description(placed[::-1])

"""Memory that carries one bucket of weights from the worker to its engine's processes.

Where the bytes lie in Ray's object store on this machine, the engine maps them there. Elsewhere they are copied into an
anonymous memory file: it has no name to leave behind in /dev/shm, does not count against the size of that mount (64 MB
in a default container) and is gone when the last process that holds it is, however they end.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocol.announcement import MEMORY_FILE
from rollout_workers.engine.plasma import is_store, locate

Arrays = Sequence[npt.NDArray[np.uint8]]
_ALIGNMENT = 64
_KEPT = 3
"""Files that stay mapped: a learner takes turns with two, and with one more after a worker hung in the third."""


@contextmanager
def shared(arrays: Arrays) -> Iterator[tuple[str, list[int]]]:
    """Let another process of this user map some arrays: yields the path it opens, and the first byte of each array.

    Good inside the context only, and for reading only.
    """
    place = locate(arrays)
    if place is not None:
        yield place
    else:
        with copied(arrays) as place:
            yield place


@contextmanager
def copied(arrays: Arrays) -> Iterator[tuple[str, list[int]]]:
    """As `shared`, by a copy. A mapping that is made inside stays good for as long as it is held."""
    descriptor = os.memfd_create("earshot-weights")
    try:
        offsets, end = [], 0
        for array in arrays:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            offsets.append(start)
            end = start + array.nbytes
            _write(descriptor, array, start)
        os.truncate(descriptor, end)
        yield f"/proc/{os.getpid()}/fd/{descriptor}", offsets
    finally:
        os.close(descriptor)


def _write(descriptor: int, array: npt.NDArray[np.uint8], start: int) -> None:
    """Written, not copied into a mapping: the kernel need not clear pages first."""
    left = array.data
    while left:
        written = os.pwrite(descriptor, left, start)
        left, start = left[written:], start + written


class Mapper:
    """Maps what `shared` offers, and the memory files that a learner publishes weights in.

    Ray's store is one file for as long as Ray runs, and a learner's files come again and again: they are mapped as a
    whole and stay so, for mapping their pages anew takes as long as copying them. They can be read only: who wrote
    there would change others' objects, and dies of it.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], mmap.mmap] = {}
        """By the file's numbers, which no other file has while it is mapped; the newest is last."""

    def map(self, path: str, first: int, end: int) -> tuple[mmap.mmap, int]:
        """A mapping with the bytes from `first` to `end`, and the byte that it begins with."""
        kept = self._kept.get(_numbers(Path(path).stat()))
        if kept is not None and len(kept) >= end:
            return kept, 0
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not _comes_again(str(Path(path).readlink())):
                start = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
                return mmap.mmap(descriptor, end - start, access=mmap.ACCESS_READ, offset=start), start
            mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            numbers = _numbers(os.fstat(descriptor))
            self._kept.pop(numbers, None)
            self._kept[numbers] = mapping
            if len(self._kept) > _KEPT:
                # Unmapped once the last tensor in it is gone.
                del self._kept[next(iter(self._kept))]
            return mapping, 0
        finally:
            os.close(descriptor)


def _numbers(status: os.stat_result) -> tuple[int, int]:
    """Of a file: inodes alone are those of one file system, and Ray's store is on another than memory files."""
    return status.st_dev, status.st_ino


def _comes_again(path: str) -> bool:
    return is_store(path) or Path(path).name.startswith(f"memfd:{MEMORY_FILE}")

"""Shared memory that carries one bucket of weights from the worker to its engine's processes.

If the bytes are in Ray's object store on this machine, the engine maps them there. Otherwise they are copied into an
anonymous memory file: it leaves no name in /dev/shm, does not count against the size of that mount (64 MB in a default
container), and disappears with the last process that holds it, for whatever reason that ends.
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
"""Number of files that stay mapped: a learner alternates between two, and adds one if a worker hangs in one."""


@contextmanager
def shared(arrays: Arrays) -> Iterator[tuple[str, list[int]]]:
    """Let another process of this user map some arrays: yield the path to open, and the first byte of each array.

    Valid inside the context only, and read only.
    """
    place = locate(arrays)
    if place is not None:
        yield place
    else:
        with copied(arrays) as place:
            yield place


@contextmanager
def copied(arrays: Arrays) -> Iterator[tuple[str, list[int]]]:
    """Share a copy of some arrays, as `shared` does. A mapping made inside stays valid as long as it is held."""
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
    """Write an array to the file. Faster than copying into a mapping, for which the kernel clears pages first."""
    left = array.data
    while left:
        written = os.pwrite(descriptor, left, start)
        left, start = left[written:], start + written


class Mapper:
    """Maps files of `shared`, and the memory files in which a learner publishes weights.

    Ray's store is one file as long as Ray runs, and a learner reuses its files. Both are mapped as a whole and stay
    mapped: mapping their pages again takes as long as copying them. Mappings are read-only, since a write would change
    others' objects: it ends the process instead.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], mmap.mmap] = {}
        """By device and inode, which are unique while the file is mapped; the newest is last."""

    def map(self, path: str, first: int, end: int) -> tuple[mmap.mmap, int]:
        """Return a mapping with the bytes from `first` to `end`, and the offset of its first byte."""
        kept = self._kept.get(_identity(Path(path).stat()))
        if kept is not None and len(kept) >= end:
            return kept, 0
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not _is_reused(str(Path(path).readlink())):
                start = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
                return mmap.mmap(descriptor, end - start, access=mmap.ACCESS_READ, offset=start), start
            mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            identity = _identity(os.fstat(descriptor))
            self._kept.pop(identity, None)
            self._kept[identity] = mapping
            if len(self._kept) > _KEPT:
                # It is unmapped with the last tensor in it.
                del self._kept[next(iter(self._kept))]
            return mapping, 0
        finally:
            os.close(descriptor)


def _identity(status: os.stat_result) -> tuple[int, int]:
    """Return device and inode: Ray's store and memory files are on different file systems, with inodes of their own."""
    return status.st_dev, status.st_ino


def _is_reused(path: str) -> bool:
    return is_store(path) or Path(path).name.startswith(f"memfd:{MEMORY_FILE}")

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

from rollout_workers.plasma import is_store, locate

Arrays = Sequence[npt.NDArray[np.uint8]]
_ALIGNMENT = 64


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
    """Maps what `shared` offers.

    Ray's store is one file for as long as Ray runs: it is mapped as a whole and stays so, for each update's bytes lie
    where an earlier one's did, and mapping their pages anew takes as long as copying them. It can be read only: who
    wrote there would change others' objects, and dies of it.
    """

    def __init__(self) -> None:
        self._store: mmap.mmap | None = None
        self._inode = 0

    def map(self, path: str, first: int, end: int) -> tuple[mmap.mmap, int]:
        """A mapping with the bytes from `first` to `end`, and the byte that it begins with."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not is_store(str(Path(path).readlink())):
                start = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
                return mmap.mmap(descriptor, end - start, access=mmap.ACCESS_READ, offset=start), start
            # While it is mapped, its number is not given to another file.
            inode = os.fstat(descriptor).st_ino
            if self._store is None or self._inode != inode or len(self._store) < end:
                self._store, self._inode = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), inode
            return self._store, 0
        finally:
            os.close(descriptor)

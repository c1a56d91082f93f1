"""Memory that carries one bucket of weights from the worker to its engine's processes.

Where the bytes lie in Ray's object store on this machine, the engine maps them there. Elsewhere they are copied into an
anonymous memory file: it has no name to leave behind in /dev/shm, does not count against the size of that mount (64 MB
in a default container) and is gone when the last process that holds it is, however they end.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from rollout_workers.plasma import locate

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


def mapped(path: str, first: int, end: int) -> tuple[mmap.mmap, int]:
    """Map the bytes from `first` to `end` of what `shared` offers, and the byte that the mapping begins with.

    Private: what is written here, nobody else sees.
    """
    start = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return mmap.mmap(descriptor, end - start, access=mmap.ACCESS_COPY, offset=start), start
    finally:
        os.close(descriptor)

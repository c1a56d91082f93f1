"""A piece of shared memory that carries one bucket of weights from the worker to its engine's processes.

It is an anonymous memory file: it has no name to leave behind in /dev/shm, does not count against the size of that
mount (64 MB in a default container) and is gone when the last process that holds it is, however they end.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt


@contextmanager
def shared(data: npt.NDArray[np.uint8]) -> Iterator[str]:
    """Copy `data`, shape (nbytes,), into shared memory; yields the path by which a process of this user opens it.

    The path is good inside the context only. A mapping made there stays good for as long as it is held.
    """
    descriptor = os.memfd_create("earshot-weights")
    try:
        os.ftruncate(descriptor, data.nbytes)
        with mmap.mmap(descriptor, data.nbytes) as memory:
            np.frombuffer(memory, dtype=np.uint8)[:] = data
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def mapped(path: str) -> mmap.mmap:
    """Map what `shared` offers. Private: what is written here, nobody else sees."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)

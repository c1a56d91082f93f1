"""Locate arrays of Ray's object store in memory, so that another process can map them without a copy.

The store is one unlinked memory file: its owner, the raylet, is the parent of every worker process and holds it open.
This is how Ray 2.60 works on Linux. If anything differs, nothing is found, and the bytes are copied
(`rollout_workers.engine.segment`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class _Region:
    """A memory mapping of this process."""

    low: int
    high: int
    offset: int
    """Offset in the file of the byte at `low`."""
    inode: int
    lasting: bool
    """True if it exists as long as this process, as the store's memory does; files that it grows into do not."""

    def holds(self, first: int, end: int) -> bool:
        return self.low <= first and end <= self.high


_known: tuple[_Region, Path] | None = None
"""The store's last location. Searching for it takes as long as copying 10 MB."""


def locate(arrays: Sequence[npt.NDArray[np.uint8]]) -> tuple[str, list[int]] | None:
    """Return a path to map, and the first byte of each array in it; None if it cannot be found.

    Valid as long as the arrays are held. Do not write there.
    """
    global _known  # noqa: PLW0603 - one per process
    spans = [(array.__array_interface__["data"][0], array.nbytes) for array in arrays]
    first, end = min(start for start, _ in spans), max(start + size for start, size in spans)
    if _known is None or not _known[0].holds(first, end) or not _is_open(_known[1], _known[0].inode):
        found = _find(first, end)
        if found is None:
            return None
        _known = found
    region, path = _known
    if not region.lasting:
        _known = None
    return str(path), [address - region.low + region.offset for address, _ in spans]


def _find(first: int, end: int) -> tuple[_Region, Path] | None:
    """Return the mapping that holds all of these addresses, and the path at which the raylet has its file open."""
    region = _region(first, end)
    if region is None:
        return None
    try:
        descriptors = list(Path(f"/proc/{os.getppid()}/fd").iterdir())
    except OSError:
        return None  # the raylet belongs to another user
    path = next((path for path in descriptors if _is_open(path, region.inode)), None)
    return None if path is None else (region, path)


def _region(first: int, end: int) -> _Region | None:
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, offset, _, inode, *path = line.split(maxsplit=5)
        low, high = (int(address, 16) for address in addresses.split("-"))
        if low <= first and end <= high:
            if not path or not is_store(path[0]):
                return None
            return _Region(low, high, int(offset, 16), int(inode), lasting=path[0].startswith("/dev/shm/"))
    return None


def _is_open(path: Path, inode: int) -> bool:
    """Return whether `path` is an open file of the store with this inode."""
    try:
        return path.stat().st_ino == inode and is_store(str(path.readlink()))
    except OSError:
        return False  # just closed


def is_store(path: str) -> bool:
    """Return whether a file belongs to the store, by its name."""
    return Path(path).name.startswith("plasma")

"""Where arrays of Ray's object store lie on this machine, so that another process can map them without a copy.

The store is one memory file, which has no name any more: its owner, the raylet, is the parent of every worker process
and holds it open. This is how Ray 2.60 does it on Linux. Where anything is otherwise, nothing is found, and the bytes
have to be copied (`rollout_workers.segment`).
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt


def locate(arrays: Sequence[npt.NDArray[np.uint8]]) -> tuple[str, list[int]] | None:
    """A path to map, and the first byte of each array in it; None where that is not to be found out.

    Good for as long as the arrays are held. Nothing must be written there.
    """
    spans = [(array.__array_interface__["data"][0], array.nbytes) for array in arrays]
    region = _region(min(start for start, _ in spans), max(start + size for start, size in spans))
    if region is None:
        return None
    start, offset, inode = region
    path = _held_open(os.getppid(), inode)
    return None if path is None else (path, [address - start + offset for address, _ in spans])


def _region(first: int, end: int) -> tuple[int, int, int] | None:
    """The mapping of this process that holds all of these addresses: its start, its offset in the file, the inode."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, offset, _, inode, *path = line.split(maxsplit=5)
        low, high = (int(address, 16) for address in addresses.split("-"))
        if low <= first and end <= high:
            return (low, int(offset, 16), int(inode)) if path and _is_store(path[0]) else None
    return None


def _held_open(pid: int, inode: int) -> str | None:
    """The path by which a file is reached that another process of this user holds open."""
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None  # the raylet is another user's
    for path in descriptors:
        try:
            if path.stat().st_ino == inode and _is_store(str(path.readlink())):
                return str(path)
        except OSError:
            continue  # closed just now
    return None


def _is_store(path: str) -> bool:
    return Path(path).name.startswith("plasma")

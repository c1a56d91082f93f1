"""Read parts of the tensors in a safetensors file, and no other bytes of them.

safetensors maps a file instead: then pages around what is used are read too, and a disk that is mounted over the
network is asked for one page at a time.
"""

import json
import os
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_TYPES = {"F32": torch.float32, "U8": torch.uint8}
"""Types of training states."""
_LENGTH_BYTES = 8
_LONGEST_READ = 2**30


class TensorSlices:
    """An open file. Its methods raise OSError, and ValueError for a file that is not what its header says."""

    def __init__(self, path: Path) -> None:
        """Read the header."""
        self._path = path
        self._file = path.open("rb", buffering=0)
        try:
            length = int.from_bytes(self._bytes(_LENGTH_BYTES, 0), "little")
            self._data = _LENGTH_BYTES + length
            size = os.fstat(self._file.fileno()).st_size
            if self._data > size:
                raise ValueError(f"{path}: the file ends in its header")
            self._entries = json.loads(bytes(self._bytes(length, _LENGTH_BYTES)))
            self._entries.pop("__metadata__", None)
            if self._data + max((entry["data_offsets"][1] for entry in self._entries.values()), default=0) != size:
                raise ValueError(f"{path}: the file has another length than its header says")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor, by name."""
        return {name: tuple(entry["shape"]) for name, entry in self._entries.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Return elements `start` to `stop` of a flattened tensor, by default all: shape (stop - start,)."""
        entry = self._entries[name]
        dtype = _TYPES[entry["dtype"]]
        count = (prod(entry["shape"]) if stop is None else stop) - start
        if not count:
            return torch.empty(0, dtype=dtype)
        offset = self._data + entry["data_offsets"][0] + start * dtype.itemsize
        return torch.frombuffer(self._bytes(count * dtype.itemsize, offset), dtype=dtype)

    def _bytes(self, count: int, offset: int) -> bytearray:
        found = bytearray(count)
        left = memoryview(found)
        while left:
            read = os.preadv(self._file.fileno(), [left[:_LONGEST_READ]], offset)
            if not read:
                raise ValueError(f"{self._path}: the file ends too early")
            left, offset = left[read:], offset + read
        return found

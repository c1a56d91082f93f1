"""Lines of files that grow: read once each as they are appended, or in pages from any line on.

Invariants: a line is read when it is complete, never while it is being written. `LineReader` meets every line once, in
order, and starts over when the file is truncated or replaced. A place in a file is the byte where a line begins, or the
end of the file; walking from place to place meets every complete line exactly once.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from audio_qa.errors import InputError

LONGEST_LINE = 16 * 2**20
"""Bytes; Earshot writes no longer lines."""
_PIECE = 64 * 1024
_BLOCK = 512 * 1024
"""Bytes read at a time: a longer block would keep other threads waiting while it is parsed."""
_TAIL = 4096
"""Bytes before the offset by which a replaced file is recognised."""


class PlaceError(InputError):
    """A byte where no line begins; the message is for the caller that named it."""


@dataclass(frozen=True, slots=True)
class FileLine:
    """One complete line."""

    start: int
    """Offset of its first byte."""
    text: bytes
    """Its bytes without the line break."""

    @property
    def end(self) -> int:
        """Offset of the next line."""
        return self.start + len(self.text) + 1


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 while it is missing."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def check_place(path: Path, place: int) -> None:
    """Raise PlaceError unless a line begins, or the file ends, at `place`."""
    if place == 0:
        return
    size = size_of(path)
    if not 0 < place <= size:
        raise PlaceError(f"{place} is not within the file of {size} bytes; start over")
    with path.open("rb") as file:
        file.seek(place - 1)
        if file.read(1) != b"\n":
            raise PlaceError(f"no line begins at {place}; start over")


def check_before(path: Path, place: int, text: bytes) -> None:
    """Raise PlaceError unless the bytes before `place` are `text`: the file was replaced by another one."""
    if not text:
        return
    with path.open("rb") as file:
        file.seek(place - len(text))
        if file.read(len(text)) != text:
            raise PlaceError(f"the file has other lines before {place} now; start over")


def lines_after(path: Path, place: int, limit: int, most_bytes: int = LONGEST_LINE) -> list[FileLine]:
    """Return at most `limit` complete lines from `place` on, in order; the first one whatever its length.

    Raises PlaceError.
    """
    check_place(path, place)
    found: list[FileLine] = []
    if size_of(path) <= place:
        return found
    with path.open("rb") as file:
        file.seek(place)
        taken = 0
        while len(found) < limit and taken < most_bytes:
            text = file.readline(LONGEST_LINE)
            if not text.endswith(b"\n"):
                break
            found.append(FileLine(place, text[:-1]))
            place += len(text)
            taken += len(text)
    return found


def lines_before(path: Path, place: int | None, limit: int, most_bytes: int = LONGEST_LINE) -> list[FileLine]:
    """Return at most `limit` complete lines that end at or before `place`, the last one first.

    Args:
        place: None for the end of the file.

    Raises PlaceError.
    """
    if place is not None:
        check_place(path, place)
    found: list[FileLine] = []
    for line in _backwards(path, size_of(path) if place is None else place):
        found.append(line)
        most_bytes -= len(line.text)
        if len(found) == limit or most_bytes <= 0:
            break
    return found


def line_at(path: Path, place: int) -> FileLine | None:
    """Return the complete line that begins at `place`, or None at the end of the file. Raises PlaceError."""
    return next(iter(lines_after(path, place, 1)), None)


def _backwards(path: Path, end: int) -> Iterator[FileLine]:
    if end == 0:
        return
    with path.open("rb") as file:
        start, rest, whole = end, b"", False
        while start:
            start, stop = max(0, start - _PIECE), start
            file.seek(start)
            first, *others = (os.read(file.fileno(), stop - start) + rest).split(b"\n")
            if len(first) > LONGEST_LINE:
                return
            place = start + len(first) + 1 + sum(len(text) + 1 for text in others)
            for text in reversed(others):
                place -= len(text) + 1
                # After the last line break there is nothing, or a line that is not complete yet.
                if whole:
                    yield FileLine(place, text)
                whole = True
            rest = first
        if whole:
            yield FileLine(0, rest)


class LineReader:
    """Follows one file. Each read continues after the last complete line."""

    def __init__(self, path: Path, *, from_end: bool = False, on_restart: Callable[[], None] | None = None) -> None:
        """
        Args:
            from_end: read only lines that are appended from now on, also after the file was truncated.
            on_restart: called when what was read is no longer there, before the file is read again.
        """
        self.path = path
        self._from_end, self._on_restart = from_end, on_restart
        self._offset = self._start()
        self._tail = b""
        self._identity: tuple[int, int, int] | None = None
        """Inode, size and time of the file when all of it had been read: while they stay there is nothing new."""

    def blocks(self) -> Iterator[bytes]:
        """Yield the new lines with their line breaks, several complete lines at a time.

        A block counts as read only when the next one is requested: an error of the caller leaves it to be read again.
        """
        try:
            status = self.path.stat()
            identity = (status.st_ino, status.st_size, status.st_mtime_ns)
            if identity == self._identity:
                return
            file = self.path.open("rb")
        except FileNotFoundError:
            self._check(None)
            return
        with file:
            self._check(file)
            file.seek(self._offset)
            rest: list[bytes] = []
            while piece := file.read(_BLOCK):
                end = piece.rfind(b"\n") + 1
                if not end:
                    rest.append(piece)
                    continue
                block = b"".join([*rest, piece[:end]])
                yield block
                self._offset += len(block)
                self._tail = block[-_TAIL:]
                rest = [piece[end:]]
        self._identity = identity

    def lines(self) -> Iterator[bytes]:
        """Yield the new lines without their line breaks."""
        for block in self.blocks():
            yield from block[:-1].split(b"\n")

    def _check(self, file: BinaryIO | None) -> None:
        """Start over if the file is missing, shorter than what was read, or has other bytes there."""
        if not self._offset:
            return
        if file is not None and file.seek(0, os.SEEK_END) >= self._offset:
            file.seek(self._offset - len(self._tail))
            if file.read(len(self._tail)) == self._tail:
                return
        self._offset, self._tail, self._identity = self._start(), b"", None
        if self._on_restart is not None:
            self._on_restart()

    def _start(self) -> int:
        last = lines_before(self.path, None, 1) if self._from_end else []
        return last[0].end if last else 0

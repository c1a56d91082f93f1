"""Lines of a file that grows, named by the byte they begin at: pages of it cost what they hold, however large it is.

Invariant: a place is the beginning of a line or the end of the file. Walking from place to place meets every whole line
exactly once; a line that is still being written is met when it is whole.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PIECE = 64 * 1024
LONGEST_LINE = 16 * 2**20
"""Bytes; what is longer is no line that Earshot writes."""


class PlaceError(ValueError):
    """A byte where no line begins; the message is for whoever named it."""


@dataclass(frozen=True, slots=True)
class FileLine:
    """One whole line."""

    start: int
    """Byte where it begins."""
    text: bytes
    """Without its line break."""

    @property
    def end(self) -> int:
        """Byte where the next one begins."""
        return self.start + len(self.text) + 1


def size_of(path: Path) -> int:
    """Bytes of a file; 0 while it is missing."""
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
        raise PlaceError(f"{place} lies outside of the {size} bytes there are; begin anew")
    with path.open("rb") as file:
        file.seek(place - 1)
        if file.read(1) != b"\n":
            raise PlaceError(f"no line begins at {place}; begin anew")


def lines_after(path: Path, place: int, limit: int, most_bytes: int = LONGEST_LINE) -> list[FileLine]:
    """At most `limit` whole lines from `place` on, in their order; the first of them is given whatever its length.

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
    """At most `limit` whole lines that end at `place` or before it, the last one first. None is the end of the file.

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
    """The whole line that begins at `place`, or None at the end of the file. Raises PlaceError."""
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
                # Behind the last line break stands nothing, or a line that is not whole yet.
                if whole:
                    yield FileLine(place, text)
                whole = True
            rest = first
        if whole:
            yield FileLine(0, rest)

"""The header `Range` (RFC 9110, section 14): which bytes of a file a request asks for.

Invariant: a header that is not one list of byte ranges is ignored, as the standard says: the whole file is the answer.
"""

import re
from dataclasses import dataclass

from audio_qa.errors import EarshotError

MOST_RANGES = 16
"""A request for more is answered with the whole file, which costs less than as many parts."""

_HEADER = re.compile(r"\s*bytes\s*=(.*)", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]{0,1000})\s*-\s*([0-9]{0,1000})")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes from `start` to `end`, exclusive."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


class UnsatisfiableRangeError(EarshotError):
    """No byte of the file is in any of the ranges."""


def parse_ranges(header: str, size: int) -> list[ByteRange] | None:
    """Return the ranges within a file of `size` bytes, in the order of the header, overlapping ones joined.

    Returns:
        None if the header is to be ignored.

    Raises:
        UnsatisfiableRangeError: no range has a byte of the file.
    """
    found = _HEADER.fullmatch(header)
    parts = [part for text in found[1].split(",") if (part := text.strip())] if found else []
    if not parts or len(parts) > MOST_RANGES:
        return None
    ranges: list[ByteRange] = []
    for part in parts:
        match = _RANGE.fullmatch(part)
        if match is None or not (match[1] or match[2]):
            return None
        if match[1] and match[2] and int(match[1]) > int(match[2]):
            return None
        wanted = _within(match[1], match[2], size)
        if wanted:
            ranges.append(wanted)
    if not ranges:
        raise UnsatisfiableRangeError(f"the file has {size} bytes")
    return _joined(ranges)


def _within(first: str, last: str, size: int) -> ByteRange:
    """Return the part of a range that the file has; an empty range if it has none."""
    if not first:
        return ByteRange(max(0, size - int(last)), size)
    start = min(int(first), size)
    return ByteRange(start, min(int(last) + 1, size) if last else size)


def _joined(ranges: list[ByteRange]) -> list[ByteRange]:
    """Return the ranges; sorted and joined if any two overlap, so that no byte is sent twice."""
    ordered = sorted(ranges, key=lambda wanted: wanted.start)
    joined = [ordered[0]]
    for wanted in ordered[1:]:
        if wanted.start < joined[-1].end:
            joined[-1] = ByteRange(joined[-1].start, max(joined[-1].end, wanted.end))
        else:
            joined.append(wanted)
    return ranges if len(joined) == len(ranges) else joined

"""FLAC: the number of samples in the header, against the last frame.

Source: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame header).
"""

import os
import re
from functools import cache
from typing import BinaryIO

from audio_qa.containers.finding import SOUND, UNVERIFIED, Finding
from audio_qa.containers.tags import sound_end, sound_start

_TAIL = 2**16
"""Bytes at the end that are searched for the last frame; frames of clips have up to 2^14 or so."""
_TOTAL = 18
"""Offset from `fLaC` of the 8 bytes that hold rate, channels and width in 28 bits, and the number of samples in 36."""
_BLOCK_SIZES = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}
_SYNC = re.compile(rb"\xff[\xf8\xf9]")


def check_flac(file: BinaryIO) -> Finding:
    """Return whether the last frame of an open file ends where its header says, or the file without a length."""
    start, head = _streaminfo(file)
    if start < 0:
        return UNVERIFIED
    total = int.from_bytes(head[_TOTAL : _TOTAL + 8], "big") & (1 << 36) - 1
    size = file.seek(0, os.SEEK_END)
    file.seek(max(start + len(head), size - _TAIL))
    tail = file.read()
    end = last_sample(tail, int.from_bytes(head[10:12], "big"))
    if head[:8] in tail:
        return Finding("holds several flac files, one after another, of which only the first would be heard; split it")
    if total and end == total:
        return SOUND
    # Either the length is unknown or untrue, or a tag hides the last frame: decode to the end whatever the header says.
    if total and end < total:
        return UNVERIFIED
    file.seek(0)
    data = file.read()
    place = start + _TOTAL
    unknown = int.from_bytes(head[_TOTAL : _TOTAL + 8], "big") >> 36 << 36
    return Finding(
        verified=False, corrected=data[:place] + unknown.to_bytes(8, "big") + data[place + 8 : sound_end(data)]
    )


def _streaminfo(file: BinaryIO) -> tuple[int, bytes]:
    """Return the offset of `fLaC` and the bytes from there to the end of STREAMINFO; -1 if they are not found."""
    file.seek(0)
    tag = sound_start(file.read(10))
    file.seek(tag)
    head = file.read(42)
    return (tag, head) if head[:4] == b"fLaC" and len(head) == 42 else (-1, head)


def last_sample(tail: bytes, largest_block: int) -> int:
    """Return the number of samples until the end of the last frame whose header is in `tail`; 0 if there is none."""
    for match in reversed(list(_SYNC.finditer(tail))):
        if end := _end(tail[match.start() : match.start() + 16], largest_block):
            return end
    return 0


def _end(header: bytes, largest_block: int) -> int:
    """Return the number of samples until the end of a frame; 0 for bytes that are not a frame's header."""
    if len(header) < 6 or header[3] & 1 or header[2] & 15 == 15 or header[2] >> 4 == 0 or header[3] >> 4 > 10:
        return 0
    number, at = _number(header, 4)
    if number < 0:
        return 0
    code = header[2] >> 4
    extra = {6: 1, 7: 2}.get(code, 0)
    block = int.from_bytes(header[at : at + extra], "big") + 1 if extra else _BLOCK_SIZES.get(code, 0)
    at += extra + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if not block or at >= len(header) or _crc8(header[:at]) != header[at]:
        return 0
    # The number counts samples if frames have different sizes, else frames.
    return (number if header[1] & 1 else number * largest_block) + block


def _number(header: bytes, at: int) -> tuple[int, int]:
    """Return a number that is written as in UTF-8, but of up to 36 bits, and the offset after it; -1 if it is none."""
    lead = header[at]
    if lead < 0x80:
        return lead, at + 1
    length = next((n for n in range(2, 8) if lead >> 7 - n == (1 << n + 1) - 2), 0)
    if not length or at + length > len(header):
        return -1, at
    number = lead & (1 << 7 - length) - 1
    for byte in header[at + 1 : at + length]:
        if byte >> 6 != 2:
            return -1, at
        number = number << 6 | byte & 0x3F
    return number, at + length


def _crc8(data: bytes) -> int:
    table, value = _crc8_table(), 0
    for byte in data:
        value = table[value ^ byte]
    return value


@cache
def _crc8_table() -> list[int]:
    """Return the table of the polynomial x^8 + x^2 + x + 1."""
    table = list(range(256))
    for _ in range(8):
        table = [(value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF for value in table]
    return table

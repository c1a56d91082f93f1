"""Containers of uncompressed sound: the size that a header announces, against the file's.

libsndfile silently reads what is there.
Sources: Microsoft, "Multimedia Programming Interface and Data Specifications 1.0" (WAV); EBU Tech 3306 (RF64); Apple,
"Audio Interchange File Format" 1.3; Sun, "Audio File Format" (AU); Sony, "Wave64"; NIST, "SPHERE".
"""

import os
from collections.abc import Iterator
from typing import BinaryIO, Literal

from audio_qa.containers.finding import SOUND, Finding, cut
from audio_qa.containers.tags import sound_start

_UNKNOWN = 0x7FFF_0000
"""Sizes from here on stand for an unknown one, in a file without so many bytes: it was written through a pipe."""
_MISCOUNTED = 64
"""Bytes that may be missing: some writers count their header."""
_W64_HEADER = 24

Order = Literal["little", "big"]


def check_chunks(file: BinaryIO) -> Finding:
    """Return whether a wav, RF64, W64, AIFF, CAF, AU or NIST file holds as much sound as its header announces."""
    file.seek(0)
    start = sound_start(file.read(10))
    file.seek(start)
    head = file.read(40)
    size = file.seek(0, os.SEEK_END)
    order: Order = "big" if head[:4] in (b"RIFX", b".snd") else "little"
    if head[:4] in (b"RIFF", b"RF64", b"RIFX"):
        return _riff(file, start, size, order)
    if head[:4] in (b".snd", b"dns."):
        data, announced = (int.from_bytes(head[i : i + 4], order) for i in (4, 8))
        return SOUND if announced == 0xFFFF_FFFF else _compared(file, start + data, announced, size)
    other = {b"FORM": _aiff, b"riff": _wave64, b"NIST": _nist, b"caff": _caf}.get(head[:4])
    return SOUND if other is None else other(file, start, size)


def _compared(file: BinaryIO, at: int, announced: int, size: int) -> Finding:
    """Return the finding for a number of bytes of sound at `at`."""
    if announced - (size - at) > _MISCOUNTED:
        return cut(announced, size - at)
    file.seek(0)
    magic = file.read(4)
    file.seek(at + announced + announced % 2)
    if file.read(4) == magic:
        return Finding("holds several files, one after another, of which only the first would be heard; split it")
    return SOUND


def _chunks(file: BinaryIO, start: int, size: int, order: Order) -> Iterator[tuple[bytes, int, int]]:
    """Return name, size and offset of the content of each chunk."""
    at = start + 12
    while at + 8 <= size:
        file.seek(at)
        name, length = file.read(4), int.from_bytes(file.read(4), order)
        if not all(32 <= byte < 127 for byte in name):
            return
        yield name, length, at + 8
        at += 8 + length + length % 2


def _riff(file: BinaryIO, start: int, size: int, order: Order) -> Finding:
    whole, large = 0, 0
    for name, length, at in _chunks(file, start, size, order):
        if name == b"ds64":
            file.seek(at)
            whole, large = (int.from_bytes(file.read(8), "little") for _ in range(2))
        elif name == b"data":
            if not whole:
                file.seek(start + 4)
                whole = int.from_bytes(file.read(4), order)
            announced = large if length == 0xFFFF_FFFF and large else length
            return _wave_data(file, min(size, start + 8 + whole), size, at, announced)
    return SOUND


def _wave_data(file: BinaryIO, end: int, size: int, at: int, announced: int) -> Finding:
    """Return the finding for announced bytes of sound at `at`; `end` is where the RIFF chunk ends."""
    there = size - at
    if announced > there:
        # libsndfile reads to the end of the file, and that is all that a pipe's writer knew.
        return SOUND if announced >= _UNKNOWN and there < _UNKNOWN else _compared(file, at, announced, size)
    surplus = end - at - announced if announced else there
    if (found := _compared(file, at, announced, size)) is not SOUND:
        return found
    if surplus <= _MISCOUNTED or _is_padding_or_chunk(file, at + announced, size):
        return SOUND
    if announced:
        return Finding(
            f"its header announces {announced:,} bytes of sound, after which {surplus:,} more follow that are no "
            "chunk; convert it again from its source"
        )
    # Written through a pipe, by a writer that left the size at 0.
    file.seek(0)
    data = file.read()
    return Finding(verified=False, corrected=data[: at - 4] + b"\xff" * 4 + data[at:])


def _is_padding_or_chunk(file: BinaryIO, at: int, size: int) -> bool:
    """Return whether zeros alone follow, or another chunk, at an even offset or without the padding to one."""
    for place in dict.fromkeys((at + at % 2, at)):
        file.seek(place)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if len(head) == 8 and all(32 <= byte < 127 for byte in head[:4]) and place + 8 + length <= size + 1:
            return True
    file.seek(at)
    return not any(file.read())


def _aiff(file: BinaryIO, start: int, size: int) -> Finding:
    for name, length, at in _chunks(file, start, size, "big"):
        if name == b"SSND":
            unknown = length >= _UNKNOWN and size - at < _UNKNOWN
            return SOUND if unknown else _compared(file, at, length, size)
    return SOUND


def _caf(file: BinaryIO, start: int, size: int) -> Finding:
    at = start + 8
    while at + 12 <= size:
        file.seek(at)
        name, length = file.read(4), int.from_bytes(file.read(8), "big", signed=True)
        if name == b"data":
            return SOUND if length < 0 else _compared(file, at + 12, length, size)
        if length < 0:
            return SOUND
        at += 12 + length
    return SOUND


def _wave64(file: BinaryIO, start: int, size: int) -> Finding:
    at = start + 40
    while at + _W64_HEADER <= size:
        file.seek(at)
        name, length = file.read(16), int.from_bytes(file.read(8), "little")
        if name[:4] == b"data":
            found = _compared(file, at + _W64_HEADER, length - _W64_HEADER, size)
            if found is SOUND and at + length == _declared_w64(file, start) < size - _MISCOUNTED:
                return _without_surplus(file, at + length)
            return found
        if length < _W64_HEADER:
            return SOUND
        at += length + -length % 8
    return SOUND


def _declared_w64(file: BinaryIO, start: int) -> int:
    file.seek(start + 16)
    return start + int.from_bytes(file.read(8), "little")


def _nist(file: BinaryIO, start: int, size: int) -> Finding:
    file.seek(start)
    fields = {words[0]: words[2] for line in file.read(1024).split(b"\n") if len(words := line.split()) == 3}
    try:
        samples, width, channels = (
            int(fields[name]) for name in (b"sample_count", b"sample_n_bytes", b"channel_count")
        )
    except (KeyError, ValueError):
        return SOUND
    announced = samples * width * channels
    found = _compared(file, start + 1024, announced, size)
    if found is SOUND and size - start - 1024 - announced > _MISCOUNTED:
        return _without_surplus(file, start + 1024 + announced)
    return found


def _without_surplus(file: BinaryIO, end: int) -> Finding:
    """Return a file without what comes after its end, which libsndfile would decode as noise."""
    file.seek(0)
    return Finding(corrected=file.read(end))

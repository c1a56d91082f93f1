"""MPEG audio (mp3): the frames that are there, against the table that announces them.

A decoder takes the length from a Xing, Info or VBRI table in the first frame, or estimates it from that frame's bit
rate, and stops there. Here the frames are counted from header to header, without decoding them.
Sources: ISO/IEC 11172-3 and 13818-3, headers; Gabriel Bouvigne, "MPEG Audio frame header" and "Mp3 Info Tag rev 1".
"""

import re
from dataclasses import dataclass
from functools import cache

from audio_qa.containers.finding import SOUND, UNVERIFIED, Finding
from audio_qa.containers.tags import id3v2_length, sound_end, sound_start

_KBITS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by MPEG version (2 also for 2.5) and layer, in kbit/s; the first is a free format."""
_RATES = {0: (11_025, 12_000, 8_000), 2: (22_050, 24_000, 16_000), 3: (44_100, 48_000, 32_000)}
"""Sampling rates by the version's two bits: 2.5, 2 and 1."""
_LONGEST_GAP = 1024
"""Bytes that the decoder skips to find the next frame."""
_LOST = 2
"""Frames that may be missing at the end: 26 ms each at 44.1 kHz."""
_AGAIN = "fetch or convert it again"
_SYNC = re.compile(rb"\xff[\xe2-\xff]")


@dataclass(frozen=True, slots=True)
class _Frames:
    """The frames of a stream."""

    first: int
    """Offset of the first one."""
    count: int
    end: int
    """Offset after the last complete one."""
    gap: int
    """Largest number of bytes between two frames that belong to neither."""
    gap_at: int


def check_mpeg(data: bytes) -> Finding:
    """Return whether the table of an mp3 file counts its frames, or the file with a table that does."""
    end = sound_end(data)
    start = sound_start(data)
    frames = _walk(data, start, end)
    if frames.count < 2 and not _begins_frame(data, frames, end):
        # A single frame, or a free format, whose frames have no length of their own.
        return UNVERIFIED
    if frames.gap > _LONGEST_GAP:
        return Finding(
            f"is damaged: the {frames.gap:,} bytes from {frames.gap_at:,} do not belong to the sound; {_AGAIN}"
        )
    if _resynchronised(data, frames.end, end, -1) >= 0:
        return Finding(
            f"changes its sampling rate or layer at byte {frames.end:,}, where a decoder stops; convert it again"
        )
    size = _length(data, frames.first)
    table, offset = _table(data, frames.first, size)
    if table in (b"", b"VBRI"):
        if _begins_frame(data, frames, end):
            return Finding(f"ends in the middle of a frame, at byte {end:,}, so the end is missing; {_AGAIN}")
        skipped = 1 if table else 0
        body = data[frames.first + skipped * size : frames.end]
        return Finding(verified=False, corrected=_with_table(body, frames.count - skipped))
    return _compared(data, frames, offset, end)


def _compared(data: bytes, frames: _Frames, offset: int, end: int) -> Finding:
    """Return the finding for a Xing or Info table at `offset`: flags, number of frames, number of bytes."""
    flags = int.from_bytes(data[offset + 4 : offset + 8], "big")
    place = offset + 8
    if not flags & 1:
        body = data[frames.first + _length(data, frames.first) : frames.end]
        return Finding(verified=False, corrected=_with_table(body, frames.count - 1))
    there = frames.count - 1
    announced = int.from_bytes(data[place : place + 4], "big")
    total = int.from_bytes(data[place + 4 : place + 8], "big") if flags & 2 else 0
    if announced - there > _LOST and (not total or total > end - frames.first or frames.gap):
        return Finding(
            f"its header announces {announced:,} frames of sound and {there:,} are there, so some are missing; {_AGAIN}"
        )
    if announced == there and not frames.gap:
        # Without the tags, which libsndfile and mpg123 take for sound that should be there, or complain about.
        whole = frames.first == 0 and frames.end == len(data)
        return SOUND if whole else Finding(verified=frames.end == end, corrected=data[frames.first : frames.end])
    size = (frames.end - frames.first).to_bytes(4, "big") if flags & 2 else b""
    counts = there.to_bytes(4, "big") + size
    return Finding(
        verified=False, corrected=data[frames.first : place] + counts + data[place + len(counts) : frames.end]
    )


def _begins_frame(data: bytes, frames: _Frames, end: int) -> bool:
    """Return whether the bytes after the last complete frame begin another one."""
    header = data[frames.end : min(end, frames.end + 3)]
    first = data[frames.first : frames.first + 3]
    return (
        len(header) == 3
        and header[0] == 0xFF
        and _length(header, 0) > 0
        and not (header[1] ^ first[1]) & 0xFE
        and not (header[2] ^ first[2]) & 0x0C
    )


def _walk(data: bytes, start: int, end: int) -> _Frames:
    """Follow the frames of a stream; bytes between two frames are skipped if frames of the same kind follow."""
    lengths = _lengths()
    first = count = gap = gap_at = 0
    at = last = start
    kind = -1
    while True:
        while at + 4 <= end and data[at] == 0xFF:
            header = data[at + 1] << 8 | data[at + 2]
            length = lengths[header]
            # Version, layer and sampling rate do not change within a stream.
            if not length or (kind >= 0 and header & 0xFE0C != kind):
                break
            if at + length > end:
                break
            if kind < 0:
                first, kind = at, header & 0xFE0C
            count += 1
            at = last = at + length
        resumes = last
        while tag := id3v2_length(data, resumes):
            resumes += tag
        found = _resynchronised(data, resumes, end, kind)
        if found < 0:
            return _Frames(first, count, last, gap, gap_at)
        if count and found - resumes > gap:
            gap, gap_at = found - resumes, resumes
        at = found


def _resynchronised(data: bytes, at: int, end: int, kind: int) -> int:
    """Return the offset of the next three frames in a row after `at`; -1 if there are none."""
    lengths = _lengths()
    for match in _SYNC.finditer(data, at, end):
        place, good, of_first = match.start(), 0, -1
        while good < 3 and place + 4 <= end and data[place] == 0xFF:
            header = data[place + 1] << 8 | data[place + 2]
            length = lengths[header]
            expected = kind if kind >= 0 or not good else of_first
            if not length or (expected >= 0 and header & 0xFE0C != expected) or place + length > end:
                break
            of_first = header & 0xFE0C
            good += 1
            place += length
        if good == 3:
            return match.start()
    return -1


@cache
def _lengths() -> list[int]:
    """Return the length of a frame in bytes by the second and third byte of its header; 0 for none."""
    return [_frame_length(header) for header in range(1 << 16)]


def _frame_length(header: int) -> int:
    version, layer = header >> 11 & 3, 4 - (header >> 9 & 3)
    rate, bits = header >> 2 & 3, header >> 4 & 15
    if header >> 13 != 0b111 or version == 1 or layer == 4 or rate == 3 or bits == 15:
        return 0
    kbits = _KBITS[(1 if version == 3 else 2, layer)][bits]
    padding = header >> 1 & 1
    if layer == 1:
        return (12_000 * kbits // _RATES[version][rate] + padding) * 4 if kbits else 0
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples * 125 * kbits // _RATES[version][rate] + padding if kbits else 0


def _length(data: bytes | bytearray, at: int) -> int:
    return _lengths()[data[at + 1] << 8 | data[at + 2]]


def _table(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """Return the name and the offset of the table in the frame at `at`; empty and 0 if it has none."""
    frame = data[at : at + size]
    offset = _table_offset(frame)
    # After a checksum, if there is one.
    for place in (offset, offset + 2):
        if frame[place : place + 4] in (b"Xing", b"Info"):
            return frame[place : place + 4], at + place
    return (b"VBRI", at + 36) if frame[36:40] == b"VBRI" else (b"", 0)


def _table_offset(frame: bytes | bytearray) -> int:
    """Return where a table starts in a frame of layer III: after header and side information."""
    mono = frame[3] >> 6 == 3
    if frame[1] >> 3 & 3 == 3:
        return 4 + (17 if mono else 32)
    return 4 + (9 if mono else 17)


def _with_table(body: bytes, count: int) -> bytes:
    """Return a stream of layer III with a table of its frames before it; other layers have none."""
    if 4 - (body[1] >> 1 & 3) != 3:
        return body
    # No checksum, and the least bit rate at which a frame has room for the table.
    header = bytearray(body[:4])
    header[1] |= 1
    for bits in range(1, 15):
        header[2] = bits << 4 | header[2] & 0x0C
        if _length(header, 0) >= 60:
            break
    table = b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    frame = bytes(header) + bytes(_table_offset(header) - 4) + table
    return frame + bytes(_length(header, 0) - len(frame)) + body

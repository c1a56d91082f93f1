"""Ogg (Vorbis, Opus): every page is there, and the stream ends where it says.

libsndfile takes the length from the last page that it finds, leaves out damaged pages, and reads the first of several
streams that follow one another. Source: RFC 3533, section 6.
"""

import zlib

from audio_qa.containers.finding import SOUND, Finding

_HEADER = 27
_BEGINS, _ENDS = 2, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_AGAIN = "fetch or convert it again"


def check_ogg(data: bytes) -> Finding:
    """Return whether the pages of an Ogg file follow one another without damage, from the first to the last."""
    next_number: dict[bytes, int] = {}
    ended: set[bytes] = set()
    at, begun = 0, False
    while data[at : at + 4] == b"OggS" and len(data) >= at + _HEADER:
        table = data[at + _HEADER : at + _HEADER + data[at + 26]]
        end = at + _HEADER + len(table) + sum(table)
        if len(table) < data[at + 26] or end > len(data):
            break
        page = data[at:end]
        if checksum(page) != int.from_bytes(page[22:26], "little"):
            return Finding(f"is damaged: the page at byte {at:,} does not match its checksum; {_AGAIN}")
        serial, number = page[14:18], int.from_bytes(page[18:22], "little")
        if page[5] & _BEGINS:
            if begun:
                return Finding(
                    "holds several streams, one after another, of which only the first would be heard; convert it to "
                    "one stream, or to wav"
                )
        else:
            begun = True
            if number != next_number.get(serial, number):
                return Finding(f"is damaged: a page before byte {at:,} is missing; {_AGAIN}")
        next_number[serial] = number + 1
        if page[5] & _ENDS:
            ended.add(serial)
        at = end
    if ended == set(next_number):
        # Without what comes after the last page, which libsndfile may fail at.
        return SOUND if at == len(data) else Finding(corrected=data[:at])
    return Finding(f"ends, at byte {at:,}, before the page that is marked as the last, so the end is missing; {_AGAIN}")


def checksum(page: bytes) -> int:
    """Return the CRC-32 of a page without its own four bytes: zlib's, with all bits in reverse order."""
    blank = page[:22] + bytes(4) + page[26:]
    value = zlib.crc32(blank.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{value:032b}"[::-1], 2)

"""Tags around a stream: ID3v2 before it, and ID3v1, APE, Lyrics3 or ID3v2 after it.

Sources: id3.org, "ID3v2.4.0 structure" and "ID3v1"; wiki.hydrogenaud.io, "APEv2 specification"; id3.org, "Lyrics3v2".
"""

_ID3V1_BYTES = 128
_APE_BYTES = 32


def sound_start(data: bytes) -> int:
    """Return the offset of the first byte after all ID3v2 tags at the beginning."""
    at = 0
    while length := id3v2_length(data, at):
        at += length
    return at


def id3v2_length(data: bytes, at: int) -> int:
    """Return the length of the ID3v2 tag at an offset; 0 if there is none."""
    if data[at : at + 3] != b"ID3" or len(data) < at + 10:
        return 0
    footer = 10 if data[at + 5] & 0x10 else 0
    return 10 + _synchsafe(data[at + 6 : at + 10]) + footer


def sound_end(data: bytes) -> int:
    """Return the offset of the first byte of all tags at the end."""
    end = len(data)
    while True:
        if data[max(0, end - _ID3V1_BYTES) : end][:3] == b"TAG" and end >= _ID3V1_BYTES:
            end -= _ID3V1_BYTES
        elif (footer := data[max(0, end - _APE_BYTES) : end])[:8] == b"APETAGEX":
            # The size counts the footer, and a header only has its flag.
            header = _APE_BYTES if int.from_bytes(footer[20:24], "little") & 0x8000_0000 else 0
            size = max(_APE_BYTES, int.from_bytes(footer[12:16], "little"))
            end = max(0, end - size - header)
        elif data[max(0, end - 9) : end] == b"LYRICS200" and data[max(0, end - 15) : end - 9].isdigit():
            end = max(0, end - 15 - int(data[end - 15 : end - 9]))
        elif data[max(0, end - 10) : end][:3] == b"3DI":
            end = max(0, end - 20 - _synchsafe(data[end - 4 : end]))
        else:
            return end


def _synchsafe(data: bytes) -> int:
    """Return a number of 7 bits a byte, the most significant one first."""
    value = 0
    for byte in data:
        value = value << 7 | byte & 0x7F
    return value

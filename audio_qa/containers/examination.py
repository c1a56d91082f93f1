"""Checks the container of a sound file, whatever it is."""

from pathlib import Path

from audio_qa.containers.chunks import check_chunks
from audio_qa.containers.finding import UNVERIFIED, Finding
from audio_qa.containers.flac import check_flac
from audio_qa.containers.mpeg import check_mpeg
from audio_qa.containers.ogg import check_ogg
from audio_qa.containers.tags import sound_start

_CHUNKED = frozenset({b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b".snd", b"dns.", b"NIST", b"caff"})


def examine(path: Path) -> Finding:
    """Return what the container of a file says about its length, without decoding the sound.

    Reads the headers of wav and its kin, the end of flac, and the whole of ogg and mp3. The file is opened as a decoder
    would, by its first bytes and not by its name. Raises OSError.
    """
    with path.open("rb") as file:
        tag = sound_start(file.read(10))
        file.seek(tag)
        magic = file.read(4)
        if magic in _CHUNKED:
            return check_chunks(file)
        if magic == b"fLaC":
            return check_flac(file)
        if magic == b"OggS":
            file.seek(0)
            return check_ogg(file.read()[tag:])
        if tag or (magic[:1] == b"\xff" and len(magic) == 4 and magic[1] >= 0xE0):
            file.seek(0)
            return check_mpeg(file.read())
    return UNVERIFIED

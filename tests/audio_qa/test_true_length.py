"""A header may say what is not heard: the true length is found, or the file is refused; no part passes in silence."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio_qa.audio import AudioError, load_audio, probe
from audio_qa.containers.ogg import checksum

RATE = 16_000
SECONDS = 3.0
FRAMES = round(SECONDS * RATE)


def encoded(container: str, seconds: float = SECONDS, **options: str) -> bytes:
    """Return noise that gets quieter, so that frames of mp3 with a variable bit rate have different lengths."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE)) * np.linspace(
        1, 0.001, round(seconds * RATE)
    )
    file = io.BytesIO()
    soundfile.write(file, noise, RATE, format=container, **options)
    return file.getvalue()


WAV, FLAC, OGG, MP3 = (encoded(container) for container in ("WAV", "FLAC", "OGG", "MP3"))
OPUS = encoded("OGG", subtype="OPUS")
TABLE = MP3.index(b"Xing")
TABLE_FRAME = MP3.index(MP3[:2], 4)
"""Length of the frame that holds the table."""
FRAME_COUNT = int.from_bytes(MP3[TABLE + 8 : TABLE + 12], "big")
LIST = b"LIST" + (100).to_bytes(4, "little") + bytes(100)
ID3V2 = b"ID3\x04\0\0\0\0\x10\0" + bytes(2048)
APE = b"APETAGEX" + b"".join(n.to_bytes(4, "little") for n in (2000, 32, 1, 0)) + bytes(8)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def flac(samples: int) -> bytes:
    """Return the flac file with another number of samples in its header."""
    fields = int.from_bytes(FLAC[18:26], "big") >> 36 << 36 | samples
    return patched(FLAC, 18, fields.to_bytes(8, "big"))


def wav(size: int, riff: int | None = None, tail: bytes = b"") -> bytes:
    """Return the wav file with other sizes in its header."""
    whole = len(WAV) - 8 + len(tail) if riff is None else riff
    return patched(patched(WAV, 40, size.to_bytes(4, "little")), 4, whole.to_bytes(4, "little")) + tail


def mp3(frames: int, size: int | None = None) -> bytes:
    """Return the mp3 file with other numbers in its table."""
    data = patched(MP3, TABLE + 8, frames.to_bytes(4, "big"))
    return data if size is None else patched(data, TABLE + 12, size.to_bytes(4, "big"))


def checks(path: Path) -> list[Callable[[], float]]:
    return [
        lambda: probe(path).seconds,
        lambda: probe(path, decode=True).seconds,
        lambda: load_audio(path, max_seconds=None, too_long="refuse").seconds,
        lambda: len(load_audio(path, max_seconds=None, too_long="refuse").samples) / RATE,
        lambda: load_audio(path, max_seconds=2, too_long="truncate").seconds,
    ]


WHOLE = {
    "flac of a pipe": flac(0),
    "flac that says half": flac(FRAMES // 2),
    "flac of a pipe with a tag": flac(0) + b"TAG" + bytes(125),
    "flac with a tag": FLAC + b"TAG" + bytes(125),
    "flac with zeros": FLAC + bytes(5000),
    "flac after a tag": ID3V2 + flac(0),
    "wav of a pipe, -1": wav(0xFFFF_FFFF, 0xFFFF_FFFF),
    "wav of a pipe, sox": wav(0x7FFF_F000, 0x7FFF_F024),
    "wav of a pipe, 0": wav(0, 0),
    "wav with a chunk": wav(len(WAV) - 44, tail=LIST),
    "wav with half a chunk": wav(len(WAV) - 44, tail=LIST[:20]),
    "wav with padding": wav(len(WAV) - 44, tail=bytes(3000)),
    "wav with junk": WAV + b"\x17\x99" * 500,
    "wav that counts its header": wav(len(WAV)),
    "mp3 without a table": MP3[TABLE_FRAME:],
    "mp3 without a table, with zeros": MP3[TABLE_FRAME:] + bytes(50_000),
    "mp3 without a table, with tags": ID3V2 + MP3[TABLE_FRAME:] + APE + b"TAG" + bytes(125),
    "mp3 with tags": ID3V2 + MP3 + APE + b"TAG" + bytes(125),
    "mp3 with a tag that has no size": MP3 + APE[:12] + bytes(20),
    "mp3 with zeros": MP3 + bytes(50_000),
    "mp3 that says half": mp3(FRAME_COUNT // 2),
    "mp3 that says ten times": mp3(FRAME_COUNT * 10),
    "mp3 that says nothing": mp3(0),
    "ogg with zeros": OGG + bytes(50_000),
    "opus with junk": OPUS + b"\x17\x99" * 5000,
    "w64 with zeros": encoded("W64") + bytes(5000),
    "nist with zeros": encoded("NIST") + bytes(5000),
    "rf64 with a tag": encoded("RF64") + b"TAG" + bytes(125),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_sound_is_heard_whatever_the_header_says(tmp_path, name):
    path = tmp_path / "clip"
    path.write_bytes(WHOLE[name])
    for check in checks(path):
        assert check() == pytest.approx(SECONDS, abs=0.08)


HALVES = {
    container: encoded(container)
    for container in ("WAV", "AIFF", "AU", "CAF", "RF64", "W64", "NIST", "FLAC", "MP3", "OGG")
}
HALVES |= {
    "opus": OPUS,
    "wav of floats": encoded("WAV", subtype="FLOAT"),
    "wav of blocks": encoded("WAV", subtype="IMA_ADPCM"),
}
PARTS = {
    **{f"half of {name}": data[: len(data) // 2] for name, data in HALVES.items()},
    **{f"{name} without its last 2000 bytes": data[:-2000] for name, data in HALVES.items()},
    "flac of a pipe, cut": flac(0)[:-1],
    "flac that says more": flac(FRAMES * 2),
    "wav that says half": wav((len(WAV) - 44) // 2),
    "wav, no sound at all": WAV[:46],
    "mp3 that says more, of a larger file": mp3(FRAME_COUNT * 10, len(MP3) * 10),
    "mp3 without a table, cut": MP3[TABLE_FRAME:-50],
    "mp3 with a hole": MP3[:6000] + bytes(3000) + MP3[9000:],
    "mp3 of two rates": MP3 + encoded("MP3", 1.0).replace(MP3[:3], b"\xff\xf3\x44"),
    "ogg without its last page": OGG[: OGG.rindex(b"OggS")],
    "ogg without a page": OGG[: OGG.index(b"OggS", 5000)] + OGG[OGG.index(b"OggS", OGG.index(b"OggS", 5000) + 1) :],
    "ogg with a damaged last page": patched(OGG, len(OGG) - 100, bytes([OGG[-100] ^ 255])),
    "ogg twice": OGG + OGG,
    "wav twice": WAV + WAV,
    "flac twice": encoded("FLAC", 1.0) * 2,
    "voc": encoded("VOC"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_refused_and_never_played_in_silence(tmp_path, name):
    path = tmp_path / "clip"
    path.write_bytes(PARTS[name])
    for check in checks(path):
        with pytest.raises(AudioError) as caught:
            check()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert any(word in str(caught.value) for word in ("again", "replace", "convert", "split")), caught.value


def test_a_page_has_the_checksum_of_rfc_3533():
    assert checksum(OGG[: OGG.index(b"OggS", 1)]) == int.from_bytes(OGG[22:26], "little")


BASES = {name: data for name, data in (HALVES | {"wav": WAV}).items() if name != "wav of floats"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from(sorted(BASES)),
    damage=st.sampled_from(["cut", "append", "overwrite", "header"]),
    share=st.floats(0, 0.999),
    new=st.binary(min_size=1, max_size=3000),
)
def test_whatever_passes_a_check_plays_with_the_length_of_the_check(tmp_path, base, damage, share, new):
    data = BASES[base]
    at = int(share * len(data))
    damaged = {
        "cut": data[:at],
        "append": data + new,
        "overwrite": patched(data, at, new)[: len(data)],
        "header": patched(data, int(share * 60), new[:4]),
    }[damage]
    path = tmp_path / "clip"
    path.write_bytes(damaged)
    results = {}
    for name, check in zip(("quick", "decoded", "loaded"), checks(path), strict=False):
        try:
            results[name] = check()
        except AudioError as error:
            assert "\n" not in str(error)
    if "loaded" in results:
        assert results["decoded"] == pytest.approx(results["loaded"], abs=0.05)
        assert results["quick"] == pytest.approx(results["loaded"], abs=0.05)
    # Damage within the sound of flac is found by decoding it only.
    assert ("quick" in results) == ("loaded" in results) or damage == "overwrite"
    assert ("decoded" in results) == ("loaded" in results)
    if damage == "cut" and "loaded" in results:
        assert results["loaded"] > SECONDS - 0.1

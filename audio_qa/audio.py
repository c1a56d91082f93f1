"""Clips: the sound that a question is about, as the model gets it (mono, 16 kHz)."""

import io
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from audio_qa.containers.examination import examine
from audio_qa.errors import InputError

SAMPLE_RATE = 16_000
"""Samples per second of every clip; the feature extractors of all families expect this rate."""

TooLong = Literal["refuse", "truncate"]
Channels = Literal["mean", "first"]

FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "NIST"})
"""Containers, by libsndfile's names, whose length is checked; it takes a part of any other for the whole."""

# Decoded beyond the truncation point, so that the resampler's filter gets real sound there.
_MARGIN_SECONDS = 0.1
# A decoder may leave out an encoder's padding; a file that ends earlier than this, or than a tenth, is damaged.
_TOLERANCE_SECONDS = 0.1
# Samples of all channels that are decoded at once.
_BLOCK = 2**20
_LEAST_RATE, _GREATEST_RATE = 1_000, 1_000_000
# More frames than any file holds: libsndfile does not know the length.
_UNKNOWN_FRAMES = 2**40


class AudioError(InputError):
    """A file that cannot be used as a clip. The message is one line: the file, what is wrong, how to correct it."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The content of an audio file's header."""

    seconds: float
    rate: int
    """Sampling rate of the file, in Hz."""
    channels: int
    format: str
    """Container, by libsndfile's name: WAV, FLAC, OGG, MP3."""
    decoded: bool = field(default=False, compare=False)
    """True if the sound was decoded to its end."""

    @property
    def frames(self) -> int:
        """Number of samples of each channel, at the file's rate."""
        return round(self.seconds * self.rate)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Sound ready for the model."""

    samples: npt.NDArray[np.float32]
    """Shape (N,): mono, 16 kHz, full scale is -1 to 1."""
    seconds: float
    """Length of the original, before any truncation."""
    truncated: bool
    """True if the end of the original is missing."""


def _error(path: Path, problem: str) -> AudioError:
    return AudioError(f"{str(path)!r}: {problem}")


def is_file(path: str | os.PathLike[str]) -> bool:
    """Return whether there is a file; False for a path that no file can have, such as one that is too long."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


class _StraightFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile is untyped here
    """A file that is read from its beginning to its end.

    soundfile seeks after every read, which a decoder cannot do at the end of a file of unknown length.
    """

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _Sound:
    """An open sound file."""

    path: Path
    file: Any
    verified: bool
    """True if the number of frames in the header is true."""

    @property
    def rate(self) -> int:
        return int(self.file.samplerate)

    @property
    def frames(self) -> int | None:
        """Number of frames by the header; None if it does not say."""
        return int(self.file.frames) if self.file.frames < _UNKNOWN_FRAMES else None

    def blocks(self, size: int | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """Decode to the end, as arrays of shape (frames, channels). Raises AudioError if the end comes too early."""
        size = size or max(1, _BLOCK // self.file.channels)
        total = 0
        # After the last frame there may be a tag, which is not sound.
        while wanted := size if self.frames is None else min(size, self.frames - total):
            block: npt.NDArray[np.float32] = self.file.read(wanted, dtype="float32", always_2d=True)
            total += len(block)
            if len(block):
                yield block
            if len(block) < wanted:
                break
        if not total:
            raise _error(self.path, _NO_SAMPLES)
        if self.frames is not None and self.frames - total > min(_TOLERANCE_SECONDS * self.rate, 0.1 * self.frames):
            raise _error(
                self.path,
                f"ends after {total / self.rate:.2f} s although its header says {self.frames / self.rate:.2f} s; fetch "
                "or convert it again",
            )

    def ends(self) -> bool:
        """Return whether the last samples are there. Only FLAC needs a look: its frames do not say their length."""
        if self.file.format != "FLAC" or self.frames is None:
            return True
        try:
            self.file.seek(self.frames - 1)
            return len(self.file.read(1)) == 1
        except soundfile.SoundFileError:
            return False

    def info(self, *, decode: bool) -> AudioInfo:
        """Return the header's content; the length that it says, or the one of the decoded sound."""
        frames = self.frames
        if decode or frames is None:
            frames = sum(_finite(self.path, block) for block in self.blocks())
        if not clip_samples(frames / self.rate):
            raise _too_short(self.path, frames / self.rate)
        return AudioInfo(frames / self.rate, self.rate, self.file.channels, self.file.format, decode)


_NO_SAMPLES = "holds no samples; remove it or replace it by a file with sound"


@contextmanager
def _opened(path: Path) -> Iterator[_Sound]:
    """Open a sound file; every failure becomes an AudioError, also while the body decodes."""
    if not is_file(path):
        raise _error(path, "no such file; correct the path or put the file there")
    try:
        finding = examine(path)
        if finding.problem:
            raise _error(path, finding.problem)
        with _StraightFile(path if finding.corrected is None else io.BytesIO(finding.corrected)) as file:
            _check_header(path, file)
            # The frames of mp3 in another container are not counted.
            counted = file.format == "MP3" or not file.subtype.startswith("MPEG")
            yield _Sound(path, file, finding.verified and counted)
    # soundfile raises TypeError for a `.raw` file, which has no header with the rate.
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise _error(
            path, f"not readable as audio ({reason}); replace it by a sound wav, flac, ogg or mp3 file"
        ) from error


def _check_header(path: Path, file: Any) -> None:
    if file.format not in FORMATS:
        raise _error(
            path, f"is a {file.format} file, whose length cannot be checked; convert it to wav, flac, ogg or mp3"
        )
    if file.frames <= 0:
        raise _error(path, _NO_SAMPLES)
    if not _LEAST_RATE <= file.samplerate <= _GREATEST_RATE:
        raise _error(
            path, f"has a sampling rate of {file.samplerate:,} Hz; sound has 1,000 to 1,000,000: convert it again"
        )


def _finite(path: Path, sound: npt.NDArray[np.float32]) -> int:
    """Return the number of frames. Raises AudioError if a sample is not finite."""
    if not np.isfinite(sound).all():
        raise _error(path, "holds samples that are not finite numbers; convert it again from its source")
    return len(sound)


def _too_short(path: Path, seconds: float) -> AudioError:
    return _error(path, f"lasts {seconds:.6f} s, too short to hold a sample at 16 kHz; replace it")


def probe(path: str | os.PathLike[str], *, decode: bool = False) -> AudioInfo:
    """Return rate, channels and length of an audio file; the length is the header's if the container agrees with it.

    Raises AudioError if the file is missing, is not audio, is empty, or is known to be cut or damaged. Without `decode`
    damage within the sound may remain, which `load_audio` refuses; with it `load_audio` reads the file.
    """
    path = Path(path)
    with _opened(path) as sound:
        decode = decode or not sound.verified
        if decode or sound.ends():
            return sound.info(decode=decode)
    with _opened(path) as sound:
        return sound.info(decode=True)


def sound_blocks(path: str, size: int | None = None) -> Iterator[npt.NDArray[np.float32]]:
    """Decode a file at its own rate, as arrays of shape (frames, channels) with `size` frames. Raises AudioError."""
    with _opened(Path(path)) as sound:
        yield from sound.blocks(size)


def load_audio(
    path: str | os.PathLike[str], *, max_seconds: float | None, too_long: TooLong, channels: Channels = "mean"
) -> Clip:
    """Read a wav, flac, ogg or mp3 file of any rate and channel count as a clip.

    A file longer than `max_seconds` (None: no limit) is refused, or truncated and marked `truncated`. A truncated clip
    is exactly the beginning of the whole one. `channels="mean"` mixes down; `"first"` takes the first channel alone, as
    the published code of arXiv 2503.11197 did.

    Raises AudioError if the file is missing, broken, cut, empty, too short for one sample at 16 kHz, too long, or holds
    samples that are not finite: whatever `probe` refuses, and damage within the sound.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive, not {max_seconds}")
    if too_long not in ("refuse", "truncate"):
        raise ValueError(f'too_long must be "refuse" or "truncate", not {too_long!r}')
    if channels not in ("mean", "first"):
        raise ValueError(f'channels must be "mean" or "first", not {channels!r}')
    path = Path(path)
    with _opened(path) as sound:
        rate, known = sound.rate, sound.frames if sound.verified else None
        longer = max_seconds is not None and known is not None and known > max_seconds * rate
        if max_seconds is not None and known is not None and longer and too_long == "refuse":
            raise _longer(path, known / rate, max_seconds)
        most = sys.maxsize if max_seconds is None else math.ceil((max_seconds + _MARGIN_SECONDS) * rate)
        blocks: list[npt.NDArray[np.float32]] = []
        read = 0
        for block in sound.blocks():
            if read < most:
                kept = block[: most - read]
                _finite(path, kept)
                blocks.append(kept[:, 0] if channels == "first" else kept.mean(axis=1, dtype=np.float32))
            read += len(block)
            if longer and read >= most:
                break
    seconds = (read if known is None else known) / rate
    samples = _resampled(np.concatenate(blocks), rate)
    truncated = False
    if max_seconds is not None and seconds > max_seconds:
        if too_long == "refuse":
            raise _longer(path, seconds, max_seconds)
        samples, truncated = samples[: max(1, round(max_seconds * SAMPLE_RATE))], True
    if not len(samples):
        raise _too_short(path, seconds)
    return Clip(np.ascontiguousarray(samples), seconds, truncated)


def _longer(path: Path, seconds: float, limit: float) -> AudioError:
    return _error(
        path,
        f"lasts {seconds:.2f} s, longer than the {limit:g} s a clip may last; shorten it, leave its question out, or "
        'allow cutting (too_long="truncate")',
    )


def clip_samples(seconds: float) -> int:
    """Return the number of samples at 16 kHz of a file that lasts `seconds`, as the resampler rounds it."""
    return math.floor(seconds * SAMPLE_RATE + 0.5 + 1e-6)


def _resampled(mono: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    """Resample shape (N,) at `rate` Hz to shape (about N * 16000 / rate,) at 16 kHz."""
    if rate == SAMPLE_RATE:
        return mono
    return np.asarray(soxr.resample(np.ascontiguousarray(mono), rate, SAMPLE_RATE, quality="HQ"), dtype=np.float32)


def silence_like(clip: Clip) -> Clip:
    """Return silence of the same length; a model that uses the audio answers worse with it."""
    return Clip(np.zeros_like(clip.samples), clip.seconds, clip.truncated)

"""Clips: the sound that a question is about, as the model gets it (mono, 16 kHz)."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from audio_qa.errors import InputError

SAMPLE_RATE = 16_000
"""Samples per second of every clip; the feature extractors of all families expect this rate."""

TooLong = Literal["refuse", "truncate"]
Channels = Literal["mean", "first"]

# Decoded beyond the truncation point, so that the resampler's filter gets real sound there.
_MARGIN_SECONDS = 0.1
# A header may be off by an encoder's padding; a file that ends earlier than this is damaged.
_HEADER_TOLERANCE_SECONDS = 0.25


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


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a sound file; every failure becomes an AudioError, also while the body decodes."""
    if not is_file(path):
        raise _error(path, "no such file; correct the path or put the file there")
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    # soundfile raises TypeError for a `.raw` file, which has no header with the rate.
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise _error(
            path, f"not readable as audio ({reason}); replace it by a sound wav, flac, ogg or mp3 file"
        ) from error


def _info(path: Path, file: Any) -> AudioInfo:
    if file.frames <= 0:
        raise _error(path, "holds no samples; remove it or replace it by a file with sound")
    return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels, file.format)


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Return the content of an audio file's header, without decoding the file.

    Raises AudioError if the file is missing, is not audio or is empty. Only `load_audio` finds damage after the header.
    """
    path = Path(path)
    with _opened(path) as file:
        return _info(path, file)


def load_audio(
    path: str | os.PathLike[str], *, max_seconds: float | None, too_long: TooLong, channels: Channels = "mean"
) -> Clip:
    """Read a wav, flac, ogg or mp3 file of any rate and channel count as a clip.

    A file longer than `max_seconds` (None: no limit) is refused, or truncated and marked `truncated`. A truncated clip
    is exactly the beginning of the whole one. `channels="mean"` mixes down; `"first"` takes the first channel alone, as
    the published code of arXiv 2503.11197 did.

    Raises AudioError if the file is missing, broken, empty, too short for one sample at 16 kHz, too long, or holds
    samples that are not finite. A wav file whose end is missing cannot be distinguished from a short one and is read.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive, not {max_seconds}")
    if too_long not in ("refuse", "truncate"):
        raise ValueError(f'too_long must be "refuse" or "truncate", not {too_long!r}')
    if channels not in ("mean", "first"):
        raise ValueError(f'channels must be "mean" or "first", not {channels!r}')
    path = Path(path)
    with _opened(path) as file:
        info = _info(path, file)
        truncated = max_seconds is not None and info.seconds > max_seconds
        frames = file.frames
        if max_seconds is not None and truncated:
            if too_long == "refuse":
                raise _error(
                    path,
                    f"lasts {info.seconds:.2f} s, longer than the {max_seconds:g} s a clip may last; shorten it, leave "
                    'its question out, or allow cutting (too_long="truncate")',
                )
            frames = min(frames, math.ceil((max_seconds + _MARGIN_SECONDS) * info.rate))
        sound: npt.NDArray[np.float32] = file.read(frames, dtype="float32", always_2d=True)  # (frames, channels)
    if frames - len(sound) > _HEADER_TOLERANCE_SECONDS * info.rate:
        raise _error(
            path,
            f"ends after {len(sound) / info.rate:.2f} s although its header says {info.seconds:.2f} s; fetch or "
            "convert it again",
        )
    if not np.isfinite(sound).all():
        raise _error(path, "holds samples that are not finite numbers; convert it again from its source")
    mono = sound[:, 0] if channels == "first" else sound.mean(axis=1, dtype=np.float32)
    samples = _resampled(mono, info.rate)
    if max_seconds is not None and truncated:
        samples = samples[: max(1, round(max_seconds * SAMPLE_RATE))]
    if not len(samples):
        raise _error(path, f"lasts {info.seconds:.6f} s, too short to hold a sample at 16 kHz; replace it")
    return Clip(np.ascontiguousarray(samples), info.seconds, truncated)


def _resampled(mono: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    """Resample shape (N,) at `rate` Hz to shape (about N * 16000 / rate,) at 16 kHz."""
    if rate == SAMPLE_RATE:
        return mono
    return np.asarray(soxr.resample(np.ascontiguousarray(mono), rate, SAMPLE_RATE, quality="HQ"), dtype=np.float32)


def silence_like(clip: Clip) -> Clip:
    """Return silence of the same length; a model that uses the audio answers worse with it."""
    return Clip(np.zeros_like(clip.samples), clip.seconds, clip.truncated)

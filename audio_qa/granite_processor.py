"""Granite Speech's processor without torchaudio.

The feature extractor of transformers takes one class from torchaudio, the mel spectrogram. If torchaudio is missing,
`work_without_torchaudio` puts an equal one in its place, for the learner and for vLLM.
"""

from dataclasses import dataclass
from math import log10
from types import SimpleNamespace
from typing import Self

import torch
from transformers import GraniteSpeechProcessor
from transformers.models.granite_speech import feature_extraction_granite_speech as extraction
from transformers.utils import is_torchaudio_available

_LONGEST_SECONDS = 30
"""The model has no longest clip; this is what the other families take."""


class MelSpectrogram:
    """torchaudio's transform of the same name with its defaults: power 2, periodic Hann window, HTK's mel scale."""

    def __init__(self, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int) -> None:
        self._n_fft, self._hop_length = n_fft, hop_length
        self._window = torch.hann_window(win_length)
        self._filters = mel_filters(n_fft // 2 + 1, n_mels, sample_rate)

    def to(self, device: str) -> Self:
        """Move the window and the filters to a device."""
        self._window, self._filters = self._window.to(device), self._filters.to(device)
        return self

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the mel spectrogram, shape (B, M, F), of `samples`, shape (B, N): F = N // hop_length + 1."""
        spectrum = torch.stft(
            samples,
            self._n_fft,
            self._hop_length,
            len(self._window),
            self._window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return (spectrum.abs().pow(2).transpose(-1, -2) @ self._filters).transpose(-1, -2)


def mel_filters(frequencies: int, mels: int, sample_rate: int) -> torch.Tensor:
    """Return triangular filters at equal distances on HTK's mel scale, float32, shape (frequencies, mels)."""
    highest = 2595.0 * log10(1.0 + sample_rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, highest, mels + 2) / 2595.0) - 1.0)
    slopes = edges[None, :] - torch.linspace(0, sample_rate // 2, frequencies)[:, None]
    widths = edges[1:] - edges[:-1]
    falling, rising = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return torch.minimum(falling, rising).clamp(min=0.0)


def work_without_torchaudio() -> None:
    """Let the feature extractor of transformers work if torchaudio is missing. May be called more than once."""
    if not is_torchaudio_available():
        extraction.torchaudio = SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=MelSpectrogram))
        extraction.requires_backends = lambda *_: None


@dataclass(frozen=True, slots=True)
class Features:
    """Settings of the feature extractor by the names that Whisper's has."""

    sampling_rate: int
    hop_length: int
    chunk_length: int
    """Seconds of the longest clip."""


class GraniteProcessor(GraniteSpeechProcessor):  # type: ignore[misc]  # transformers is untyped here
    """The class of transformers, with the settings of its feature extractor where Whisper's families have them."""

    @property
    def feature_extractor(self) -> Features:
        extractor = self.audio_processor
        return Features(
            extractor.sampling_rate,
            extractor.melspec_kwargs["hop_length"],
            getattr(extractor, "chunk_length", _LONGEST_SECONDS),
        )


# The name that is saved in checkpoints, which others load with the class of transformers.
GraniteProcessor.__name__ = GraniteSpeechProcessor.__name__
work_without_torchaudio()

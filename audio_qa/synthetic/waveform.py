"""Sources of sound: every function returns a float32 mono waveform of shape (N,) at 16 kHz, peak at most 1."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from audio_qa.audio import SAMPLE_RATE

Waveform = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]

_VOWEL_FORMANTS = {
    # Mean first, second and third formants of a man's vowels, in Hz (Peterson and Barney, 1952, rounded).
    "a": (730.0, 1090.0, 2440.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (270.0, 2290.0, 3010.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
}
VOWELS = tuple(_VOWEL_FORMANTS)


def times(seconds: float) -> npt.NDArray[np.float64]:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def shaped(wave: npt.NDArray[np.float64], attack: float, release: float) -> Waveform:
    """Scale to peak 1 and fade in and out over `attack` and `release` seconds, so that nothing clicks."""
    n = len(wave)
    rise = np.minimum(1.0, np.arange(n) / max(1.0, attack * SAMPLE_RATE))
    fall = np.minimum(1.0, np.arange(n, 0, -1) / max(1.0, release * SAMPLE_RATE))
    peak = float(np.abs(wave).max(initial=0.0)) or 1.0
    scaled: Waveform = (wave / peak * rise * fall).astype(np.float32)
    return scaled


def harmonics(frequency: float, seconds: float, amplitudes: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return a sum of harmonics below the Nyquist frequency."""
    t = times(seconds)
    wave = np.zeros_like(t)
    for k, amplitude in enumerate(amplitudes, start=1):
        if frequency * k < SAMPLE_RATE / 2 and amplitude:
            wave += amplitude * np.sin(2 * np.pi * frequency * k * t)
    return wave


def event(kind: str, seconds: float, rng: np.random.Generator) -> Waveform:
    """Return an everyday sound, one of `EVENTS`."""
    t = times(seconds)
    if kind == "beep":
        return shaped(np.sin(2 * np.pi * rng.uniform(700, 1400) * t), 0.01, 0.01)
    if kind == "noise":
        return shaped(rng.standard_normal(len(t)), 0.01, 0.02)
    if kind == "chirp":
        low, high = rng.uniform(500, 900), rng.uniform(2500, 4000)
        phase = 2 * np.pi * (low * t + (high - low) * t**2 / (2 * seconds))
        return shaped(np.sin(phase), 0.01, 0.01)
    if kind == "buzz":
        return shaped(np.sign(np.sin(2 * np.pi * rng.uniform(90, 160) * t)), 0.01, 0.01)
    if kind == "bell":
        base = rng.uniform(500, 800)
        partials = sum(np.sin(2 * np.pi * base * ratio * t) / ratio for ratio in (1.0, 2.76, 5.4))
        return shaped(np.asarray(partials) * np.exp(-t / (seconds / 4)), 0.002, 0.02)
    if kind == "rattle":
        clicks = (np.arange(len(t)) % int(SAMPLE_RATE / rng.uniform(28, 40))) < 40
        return shaped(rng.standard_normal(len(t)) * clicks, 0.002, 0.01)
    raise ValueError(f"unknown event {kind!r}: choose one of {', '.join(EVENTS)}")


EVENTS = ("beep", "noise", "chirp", "buzz", "bell", "rattle")

_TIMBRES: dict[str, tuple[float, ...]] = {
    "flute": (1.0, 0.08, 0.03),
    "clarinet": (1.0, 0.0, 0.6, 0.0, 0.45, 0.0, 0.3, 0.0, 0.2),
    "violin": tuple(1.0 / k for k in range(1, 16)),
    "harp": (1.0, 0.5, 0.3, 0.2, 0.1),
}
TIMBRES = tuple(_TIMBRES)


def note(timbre: str, frequency: float, seconds: float) -> Waveform:
    """Return one note of one of `TIMBRES`; the harp is plucked and decays, the others are sustained."""
    wave = harmonics(frequency, seconds, _TIMBRES[timbre])
    if timbre == "harp":
        return shaped(wave * np.exp(-times(seconds) / 0.09), 0.002, 0.01)
    return shaped(wave, 0.02, 0.03)


SPEAKERS = ("man", "woman", "child", "whisper")


def vowel(name: str, speaker: str, seconds: float, rng: np.random.Generator) -> Waveform:
    """Return a vowel by source and filter: a buzzing source (noise for a whisper) through three formant resonances."""
    pitch = {"man": (90, 130), "woman": (185, 240), "child": (300, 380), "whisper": (100, 100)}[speaker]
    scale = {"man": 1.0, "woman": 1.15, "child": 1.3, "whisper": 1.05}[speaker] * rng.uniform(0.97, 1.03)
    formants = [f * scale for f in _VOWEL_FORMANTS[name]]

    def response(frequency: Floats) -> Floats:
        gains = (1.0, 0.6, 0.3)
        return np.asarray(
            sum(g / (1 + ((frequency - f) / 70.0) ** 2) for g, f in zip(gains, formants, strict=True)) + 0.005
        )

    if speaker == "whisper":
        spectrum = np.fft.rfft(rng.standard_normal(int(seconds * SAMPLE_RATE)))
        frequencies = np.fft.rfftfreq(int(seconds * SAMPLE_RATE), 1 / SAMPLE_RATE)
        return shaped(np.fft.irfft(spectrum * response(frequencies), int(seconds * SAMPLE_RATE)), 0.02, 0.03)
    f0 = rng.uniform(*pitch)
    frequencies = f0 * np.arange(1, int(5000 / f0))
    t = times(seconds)
    wobble = 0.01 * np.sin(2 * np.pi * 5 * t) / 5
    wave = sum(
        a * np.sin(2 * np.pi * f * (t + wobble)) for f, a in zip(frequencies, response(frequencies), strict=True)
    )
    return shaped(np.asarray(wave), 0.02, 0.03)

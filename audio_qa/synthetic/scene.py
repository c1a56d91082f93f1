"""Scenes: a scene is a waveform with the facts that are true of it; questions ask about these facts only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from audio_qa.audio import SAMPLE_RATE
from audio_qa.synthetic.waveform import EVENTS, SPEAKERS, TIMBRES, VOWELS, Waveform, event, note, vowel

CLIP_SECONDS = 2.0
NUMBERS = ("one", "two", "three", "four")
MELODIES = ("rising", "falling", "peaking", "dipping")
INTERVALS = ("unison", "third", "fifth", "octave")
TEMPI = ("slow", "moderate", "fast", "frantic")

_SEMITONES = {"unison": 0, "third": 4, "fifth": 7, "octave": 12}
_NOTES_PER_SECOND = {"slow": 1.3, "moderate": 2.3, "fast": 4.2, "frantic": 8.0}
_CONTOURS = {"rising": (0, 1, 2, 3), "falling": (3, 2, 1, 0), "peaking": (0, 2, 2, 0), "dipping": (2, 0, 0, 2)}


@dataclass(frozen=True, slots=True)
class Scene:
    """A clip of `CLIP_SECONDS` (samples: float32, shape (N,), 16 kHz) and its facts by name of the question type."""

    domain: str
    samples: Waveform
    facts: dict[str, str]
    caption: str


class MakeScene(Protocol):
    """Draws a scene."""

    def __call__(self, rng: np.random.Generator, given: Mapping[str, str] = ...) -> Scene:
        """Draw a scene in which the facts in `given` are true; all other facts are drawn as without it."""
        ...


_NOTHING: Mapping[str, str] = {}


def _fact(name: str, values: Sequence[str], rng: np.random.Generator, given: Mapping[str, str]) -> str:
    return given[name] if name in given else str(rng.choice(values))


def _mix(parts: list[tuple[float, Waveform]], rng: np.random.Generator) -> Waveform:
    """Place each part at its second, over a quiet noise floor, at a random loudness."""
    samples = np.zeros(int(CLIP_SECONDS * SAMPLE_RATE), dtype=np.float32)
    for start, wave in parts:
        first = int(start * SAMPLE_RATE)
        last = min(len(samples), first + len(wave))
        samples[first:last] += wave[: last - first]
    floor = rng.standard_normal(len(samples)).astype(np.float32) * 0.003
    mixed = samples / max(1.0, float(np.abs(samples).max())) * rng.uniform(0.3, 0.9) + floor
    return mixed.astype(np.float32)


def _slots(count: int, length: float, rng: np.random.Generator) -> list[float]:
    """Return random starts, in seconds, for `count` parts of `length` seconds with audible gaps between them."""
    gap = 0.1
    free = CLIP_SECONDS - 0.05 - count * (length + gap)
    cuts = np.sort(rng.uniform(0, free, size=count))
    return [float(cut + i * (length + gap)) for i, cut in enumerate(cuts)]


def repeated_event(rng: np.random.Generator, given: Mapping[str, str] = _NOTHING) -> Scene:
    kind, number = _fact("event", EVENTS, rng, given), _fact("count", NUMBERS, rng, given)
    length = float(rng.uniform(0.2, 0.32))
    starts = _slots(NUMBERS.index(number) + 1, length, rng)
    samples = _mix([(s, event(kind, length, rng)) for s in starts], rng)
    return Scene("sound", samples, {"event": kind, "count": number}, f"sound/{number}/{kind}")


def two_events(rng: np.random.Generator, given: Mapping[str, str] = _NOTHING) -> Scene:
    first = _fact("first", EVENTS, rng, given)
    second = str(rng.choice([kind for kind in EVENTS if kind != first]))
    length = float(rng.uniform(0.35, 0.6))
    starts = _slots(2, length, rng)
    samples = _mix([(s, event(k, length, rng)) for s, k in zip(starts, (first, second), strict=True)], rng)
    return Scene("sound", samples, {"first": first}, f"sound/{first}/{second}")


def melody(rng: np.random.Generator, given: Mapping[str, str] = _NOTHING) -> Scene:
    contour, timbre = _fact("melody", MELODIES, rng, given), _fact("instrument", TIMBRES, rng, given)
    step, base, length = rng.uniform(2, 4), rng.uniform(220, 440), rng.uniform(0.32, 0.44)
    start = rng.uniform(0, CLIP_SECONDS - 4 * length - 0.02)
    parts = [
        (start + i * length, note(timbre, base * 2 ** (level * step / 12), length))
        for i, level in enumerate(_CONTOURS[contour])
    ]
    facts = {"melody": contour, "instrument": timbre}
    return Scene("music", _mix(parts, rng), facts, f"music/{contour}/{timbre}")


def interval(rng: np.random.Generator, given: Mapping[str, str] = _NOTHING) -> Scene:
    name, timbre = _fact("interval", INTERVALS, rng, given), _fact("instrument", TIMBRES, rng, given)
    base, length = rng.uniform(262, 392), rng.uniform(0.6, 0.8)
    start = rng.uniform(0, CLIP_SECONDS - 2 * length - 0.1)
    parts = [
        (start, note(timbre, base, length)),
        (start + length + 0.05, note(timbre, base * 2 ** (_SEMITONES[name] / 12), length)),
    ]
    facts = {"interval": name, "instrument": timbre}
    return Scene("music", _mix(parts, rng), facts, f"music/{name}/{timbre}")


def pulse(rng: np.random.Generator, given: Mapping[str, str] = _NOTHING) -> Scene:
    tempo, timbre = _fact("tempo", TEMPI, rng, given), _fact("instrument", TIMBRES, rng, given)
    period = 1 / (_NOTES_PER_SECOND[tempo] * rng.uniform(0.92, 1.08))
    frequency, length = rng.uniform(250, 500), min(0.12, period * 0.7)
    starts = np.arange(rng.uniform(0, min(period, 0.4)), CLIP_SECONDS - length, period)
    facts = {"tempo": tempo, "instrument": timbre}
    samples = _mix([(float(s), note(timbre, frequency, length)) for s in starts], rng)
    return Scene("music", samples, facts, f"music/{tempo}/{timbre}")


def utterance(rng: np.random.Generator, given: Mapping[str, str] = _NOTHING) -> Scene:
    name, speaker = _fact("vowel", VOWELS, rng, given), _fact("speaker", SPEAKERS, rng, given)
    number = _fact("syllables", NUMBERS, rng, given)
    length = float(rng.uniform(0.22, 0.34))
    starts = _slots(NUMBERS.index(number) + 1, length, rng)
    samples = _mix([(s, vowel(name, speaker, length, rng)) for s in starts], rng)
    facts = {"vowel": name, "speaker": speaker, "syllables": number}
    return Scene("speech", samples, facts, f"speech/{speaker}/{name}/{number}")


SCENES: tuple[MakeScene, ...] = (
    repeated_event,
    two_events,
    melody,
    interval,
    pulse,
    utterance,
)

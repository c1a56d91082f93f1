"""The shuffled-audio control: no question gets a clip that sounds like its own."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audio_qa.inspection.overlap import sound_classes
from audio_qa.question import Question
from audio_qa.shuffled import deranged, other_clips


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 3))
def test_every_clip_goes_to_a_question_about_another_sound(kinds, seed):
    # Several questions about one clip, and several clips of one sound.
    clips = [f"{kind}-{i % 2}.wav" for i, kind in enumerate(kinds)]
    classes = {clip: int(clip.partition("-")[0]) for clip in clips}
    found = deranged(clips, classes, seed=seed)
    if len(set(kinds)) == 1:
        assert found is None
        return
    assert found is not None
    assert all(classes[was] != classes[now] for was, now in zip(clips, found, strict=True))
    if 2 * max(Counter(kinds).values()) <= len(kinds):
        assert Counter(found) == Counter(clips)
    else:
        (largest, _), *_ = Counter(kinds).most_common(1)
        assert {clip for clip in clips if classes[clip] != largest} <= set(found)
    assert deranged(clips, classes, seed=seed) == found


def test_another_seed_is_another_order():
    clips = [f"{i}.wav" for i in range(50)]
    orders = {tuple(deranged(clips, {clip: i for i, clip in enumerate(clips)}, seed=seed) or ()) for seed in range(20)}
    assert len(orders) == 20


def clip(path: Path, seed: int, beginning: float = 0.0) -> str:
    sound = np.random.default_rng(seed).uniform(-0.5, 0.5, 8_000).astype(np.float32)
    sound[: int(beginning * 16_000)] = 0
    soundfile.write(path, sound, 16_000, subtype="PCM_16")
    return str(path)


def test_clips_are_distinguished_by_their_sound(tmp_path):
    a, b = clip(tmp_path / "a.wav", 1, beginning=0.4), clip(tmp_path / "b.wav", 2, beginning=0.4)
    copy, flac = str(shutil.copy(a, tmp_path / "copy.wav")), str(tmp_path / "a.flac")
    soundfile.write(flac, *soundfile.read(a, dtype="int16"), subtype="PCM_16")
    missing = str(tmp_path / "missing.wav")
    classes = sound_classes([a, b, copy, flac, missing, a])
    assert classes[a] == classes[copy] == classes[flac]
    assert len({classes[a], classes[b], classes[missing]}) == 3

    def asked(*audio: str) -> list[str] | None:
        return other_clips(
            [Question("d", i, str(i), path, "?", ("x", "y"), "x") for i, path in enumerate(audio)], seed=0
        )

    assert asked(a, copy, flac) is None
    assert asked(a, copy, b) in ([b, b, a], [b, b, copy])
    assert asked(b, a) == [a, b]

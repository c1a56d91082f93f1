"""Contaminated splits are found by their sound, and the numbers of a question set add up."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_qa.formats.question_set import FileOrigin, QuestionSet
from audio_qa.inspection.overlap import overlapping, shared_clips
from audio_qa.inspection.statistics import statistics, too_long
from audio_qa.question import Question


def clip(path: Path, seed: int, seconds: float = 0.5, beginning: float = 0.0) -> str:
    """Write noise after some silence."""
    sound = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * 16_000)).astype(np.float32)
    sound[: int(beginning * 16_000)] = 0
    soundfile.write(path, sound, 16_000, subtype="PCM_16")
    return str(path)


def question(index: int, audio: str, dataset: str = "d", **labels: str) -> Question:
    return Question(dataset, index, str(index), audio, "What?", ("a", "b", "b"), "b", **labels)


def test_the_same_sound_is_found_under_another_name_and_in_another_container(tmp_path):
    train = [clip(tmp_path / "a.wav", 1), clip(tmp_path / "b.wav", 2), clip(tmp_path / "c.wav", 3)]
    copy = str(shutil.copy(train[0], tmp_path / "copy.wav"))
    flac = str(tmp_path / "b.flac")
    soundfile.write(flac, *soundfile.read(train[1], dtype="int16"), subtype="PCM_16")
    other = clip(tmp_path / "other.wav", 4)
    assert shared_clips(train, [copy, flac, other, train[2]]) == {copy: train[0], flac: train[1], train[2]: train[2]}


def test_clips_that_differ_at_the_end_only_are_different(tmp_path):
    train = clip(tmp_path / "a.wav", 1, beginning=0.4)
    held_out = clip(tmp_path / "b.wav", 2, beginning=0.4)
    assert shared_clips([train], [held_out]) == {}


def test_broken_files_are_compared_by_their_bytes(tmp_path):
    for name, content in (("a.wav", b"same"), ("b.wav", b"same"), ("c.wav", b"more")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (str(tmp_path / f"{name}.wav") for name in "abc")
    assert shared_clips([a], [b, c, str(tmp_path / "missing.wav")]) == {b: a}


def test_every_contaminated_question_is_named_with_one_it_meets(tmp_path):
    audio = clip(tmp_path / "a.wav", 1)
    train = [question(0, audio, "train"), question(1, audio, "train")]
    held_out = [
        question(0, audio, "test"),
        question(1, clip(tmp_path / "b.wav", 2), "test"),
        question(2, audio, "test"),
    ]
    found = overlapping(train, held_out)
    assert [problem.place for problem in found] == ["held-out question test:0", "held-out question test:2"]
    assert all("question train:0" in problem.detail and problem.refused for problem in found)


def question_set(*questions: Question, **seconds: float) -> QuestionSet:
    return QuestionSet(FileOrigin("d", "earshot", "", ""), questions, ({},) * len(questions), (), seconds, questions)


def test_statistics_count_questions_and_clips():
    found = question_set(
        question(0, "a", task="sound", difficulty="easy"),
        question(1, "a", task="music"),
        question(2, "b"),
        a=1.0,
        b=4.0,
    )
    result = statistics(found)
    assert (result.questions, result.clips, result.seconds_total, result.seconds_mean) == (3, 2, 5.0, 2.5)
    assert result.by_task == {"music": 1, "none": 1, "sound": 1}
    assert (result.by_category, result.by_choices, result.repeated_choices) == ({}, {"3": 3}, 3)
    assert result.chance_accuracy == pytest.approx(2 / 3)
    hidden = question_set(*(replace(q, answer="") for q in found.questions), **found.seconds)
    assert statistics(hidden).chance_accuracy is None


@pytest.mark.parametrize("refused", [True, False])
def test_long_clips_are_listed_question_by_question(refused):
    found = question_set(question(0, "a"), question(1, "b"), question(2, "b"), a=2.0, b=2.5)
    problems = too_long(found, 2.0, refused=refused)
    assert [(p.question_id, p.refused) for p in problems] == [("1", refused), ("2", refused)]
    assert ("model.too_long to truncate" in problems[0].detail) is refused

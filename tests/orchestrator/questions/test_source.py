from collections import Counter

import pytest

from audio_qa.question import Question
from orchestrator.questions.source import QuestionSource, sample_seed

QUESTIONS = [Question("d", i, str(i), f"{i}.wav", "?", ("a", "b"), "a") for i in range(7)]


def indices(source, count):
    return [q.index for q in source.draw(count)]


def test_every_question_once_per_epoch():
    source = QuestionSource(QUESTIONS, seed=1, shuffle=True)
    for _ in range(3):
        assert Counter(indices(source, 7)) == Counter(range(7))
    assert source.epoch == 3


def test_epochs_differ_and_the_seed_decides():
    one, two = (QuestionSource(QUESTIONS, seed=1, shuffle=True) for _ in range(2))
    first, second = indices(one, 7), indices(one, 7)
    assert first != second
    assert indices(two, 14) == first + second
    assert indices(QuestionSource(QUESTIONS, seed=2, shuffle=True), 7) != first


def test_the_position_is_its_only_state():
    source = QuestionSource(QUESTIONS, seed=1, shuffle=True)
    indices(source, 10)
    later = QuestionSource(QUESTIONS, seed=1, shuffle=True, position=10)
    assert indices(later, 10) == indices(source, 10)


def test_unshuffled_is_in_order():
    assert indices(QuestionSource(QUESTIONS, seed=1, shuffle=False), 9) == [0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        QuestionSource([], seed=0, shuffle=True)


def test_sample_seeds_are_far_apart():
    seeds = {sample_seed(s, d) for s in range(3) for d in range(2000)}
    assert len(seeds) == 6000
    assert max(seeds) < 2**62
    assert min(abs(a - b) for a, b in zip(sorted(seeds), sorted(seeds)[1:], strict=False)) > 8

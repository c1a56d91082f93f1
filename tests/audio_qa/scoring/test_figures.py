"""Figures, intervals and tests, against values computed by hand or by enumeration."""

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_qa.question import Question
from audio_qa.scoring.intervals import accuracy_interval, difference_interval, mean_interval
from audio_qa.scoring.paired import compare, mcnemar_exact
from audio_qa.scoring.rules import RULES
from audio_qa.scoring.sampling import majority_vote, pass_at_k
from audio_qa.scoring.score import judge, report

MMAU = RULES["mmau"]


def question(index: int, **labels: str) -> Question:
    return Question("d", index, str(index), "", "?", ("a dog", "a cat"), "a dog", **labels)


def test_what_the_official_figure_skips_is_counted_beside_it():
    asked = [question(i, task="sound" if i < 4 else "music", difficulty="easy") for i in range(6)]
    said = ["a dog", "A dog!", "a cat", None, None, "a dog"]
    figures = report(judge(asked, said, MMAU), MMAU)
    total = figures.total
    assert (total.questions, total.missing, total.skipped) == (6, 2, 2)
    assert (total.official, total.official_all, total.strict) == (3 / 4, 3 / 6, 2 / 6)
    assert figures.groups["by_task"]["music"].official == 1.0
    assert figures.groups["by_task"]["sound"].official_all == 2 / 4
    assert figures.groups["by_category"] == {}
    assert list(figures.groups["by_difficulty"]) == ["easy"]
    assert report(judge(asked, [None] * 6, MMAU), MMAU).total.official is None


@given(st.lists(st.sampled_from(["a dog", "A dog!", "a cat", "", None]), min_size=1, max_size=30))
@settings(deadline=None)
def test_groups_add_up_and_the_stricter_count_is_never_higher(said):
    asked = [question(i, task="xyz"[i % 3]) for i in range(len(said))]
    figures = report(judge(asked, said, MMAU), MMAU, resamples=200)
    total = figures.total
    assert total.strict <= total.official_all <= (total.official if total.official is not None else 0) + 1e-12
    groups = figures.groups["by_task"].values()
    assert sum(group.questions for group in groups) == total.questions
    assert sum(group.official_all * group.questions for group in groups) == pytest.approx(
        total.official_all * total.questions
    )
    for value, interval in ((total.official_all, total.official_all_interval), (total.strict, total.strict_interval)):
        assert interval.low - 1e-9 <= value <= interval.high + 1e-9


def test_the_interval_is_the_bootstraps():
    """Compare with questions that are resampled individually."""
    outcomes = np.array([1] * 60 + [0] * 40)
    rng = np.random.default_rng(1)
    drawn = outcomes[rng.integers(0, 100, (10_000, 100))].mean(axis=1)
    interval = accuracy_interval(60, 40, seed=0)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.011)
    assert accuracy_interval(60, 40, seed=0) == interval
    assert accuracy_interval(5, 0, seed=0).low == 1.0
    with pytest.raises(ValueError, match="questions that count"):
        accuracy_interval(0, 0, 3, seed=0)


def test_the_intervals_of_ninety_five_percent_hold_about_as_often():
    rng = np.random.default_rng(0)
    right = rng.binomial(200, 0.6, 300)
    held = [(i := accuracy_interval(int(r), 200 - int(r), seed=1, resamples=1000)).low <= 0.6 <= i.high for r in right]
    assert 0.90 <= np.mean(held) <= 0.99


def test_the_interval_of_a_mean_is_the_bootstraps():
    values = np.array([0.0] * 30 + [0.25] * 20 + [1.0] * 50)
    rng = np.random.default_rng(1)
    drawn = values[rng.integers(0, 100, (10_000, 100))].mean(axis=1)
    interval = mean_interval(list(values), seed=0)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.011)
    assert mean_interval([0.5], seed=0).low == 0.5
    with pytest.raises(ValueError, match="needs values"):
        mean_interval([], seed=0)


def test_a_paired_interval_is_narrower_than_the_results_apart():
    interval = difference_interval(80, 1, 9, 10, seed=0)
    assert 0 < interval.low < 0.08 < interval.high < 0.15


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemars_test_by_enumeration(only_first, only_second):
    n = only_first + only_second
    observed = comb(n, only_first)
    p = sum(comb(n, i) for i in range(n + 1) if comb(n, i) <= observed) / 2**n
    assert mcnemar_exact(only_first, only_second) == pytest.approx(p)
    assert mcnemar_exact(only_second, only_first) == mcnemar_exact(only_first, only_second)


def test_mcnemars_test_has_no_largest_sample():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(3000, 2000) < 1e-40


def test_two_results_are_compared_question_by_question():
    found = compare([True] * 6 + [False] * 4, [True] * 5 + [False] + [True] * 3 + [False], seed=0)
    assert (found.questions, found.only_first, found.only_second) == (10, 1, 3)
    assert (found.first_accuracy, found.second_accuracy, found.difference) == (0.6, 0.8, 0.2)
    assert found.p_value == pytest.approx(0.625)
    assert found.interval.low < 0.2 < found.interval.high
    with pytest.raises(ValueError, match="zip"):
        compare([True], [True, False], seed=0)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [(["a", "b", "b"], "b"), (["b", "a"], "b"), ([" a", "a\n", "b"], "a"), (["", "", "b"], "b"), (["", " "], "")],
)
def test_the_majority_wins_and_the_first_of_equals(answers, winner):
    assert majority_vote(answers) == winner


@given(st.integers(1, 7), st.data())
def test_pass_at_k_by_enumeration(n, data):
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(("n", "right", "k"), [(4, 1, 5), (4, 5, 1), (4, 1, 0), (0, 0, 1)])
def test_pass_at_k_of_what_was_not_drawn_is_refused(n, right, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, right, k)

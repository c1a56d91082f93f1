"""Advantages against values calculated by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.losses.advantages import Advantage, advantages

KINDS = list(Advantage)


def test_group_by_hand():
    # mean 0.5, sample variance (4 · 0.25) / 3, so the standard deviation is 1/√3.
    spread = 1 / math.sqrt(3) + 1e-4
    assert advantages(Advantage.GROUP, [1, 0, 1, 0]) == pytest.approx([0.5 / spread, -0.5 / spread] * 2, rel=1e-12)


def test_one_correct_completion_of_eight():
    # mean 1/8; squares: (7/8)² + 7 · (1/8)² = 7/8, over 7 = 1/8.
    spread = math.sqrt(1 / 8) + 1e-4
    expected = [0.875 / spread] + [-0.125 / spread] * 7
    assert advantages(Advantage.GROUP, [1] + [0] * 7) == pytest.approx(expected, rel=1e-12)


def test_centred_by_hand():
    assert advantages(Advantage.CENTRED, [2, 1, 0, 1]) == pytest.approx([1, 0, -1, 0])


def test_leave_one_out_by_hand():
    # The others' means: (1 + 0 + 1) / 3, (2 + 0 + 1) / 3, (2 + 1 + 1) / 3, 1.
    assert advantages(Advantage.LEAVE_ONE_OUT, [2, 1, 0, 1]) == pytest.approx([4 / 3, 0, -4 / 3, 0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reward", [0.0, 1.0, 2.0, 0.1])
def test_equal_rewards_have_zero_advantage(kind, reward):
    assert advantages(kind, [reward] * 8) == (0.0,) * 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rewards", [[], [1.0]])
def test_a_group_of_one_is_refused(kind, rewards):
    with pytest.raises(ValueError, match="at least 2"):
        advantages(kind, rewards)


@given(st.sampled_from(KINDS), st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_sum_to_zero_and_keep_the_order(kind, rewards):
    found = advantages(kind, rewards)
    assert sum(found) == pytest.approx(0, abs=1e-6)
    order = sorted(range(len(rewards)), key=rewards.__getitem__)
    assert [found[i] for i in order] == pytest.approx(sorted(found), abs=1e-9)

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.advantages import group_advantages


def test_advantages_by_hand():
    # mean 0.5, sample variance (4 · 0.25) / 3, so the standard deviation is 1/√3.
    spread = 1 / math.sqrt(3) + 1e-4
    assert group_advantages([1, 0, 1, 0]) == pytest.approx([0.5 / spread, -0.5 / spread] * 2, rel=1e-12)


def test_one_right_among_eight():
    # mean 1/8; squares: (7/8)² + 7 · (1/8)² = 7/8, over 7 = 1/8.
    spread = math.sqrt(1 / 8) + 1e-4
    assert group_advantages([1] + [0] * 7) == pytest.approx([0.875 / spread] + [-0.125 / spread] * 7, rel=1e-12)


@pytest.mark.parametrize("reward", [0.0, 1.0, 2.0, 0.1])
def test_equal_rewards_teach_nothing(reward):
    assert group_advantages([reward] * 8) == (0.0,) * 8


@pytest.mark.parametrize("rewards", [[], [1.0]])
def test_a_group_of_one_is_refused(rewards):
    with pytest.raises(ValueError, match="at least 2"):
        group_advantages(rewards)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_sum_to_zero_and_keep_the_order(rewards):
    advantages = group_advantages(rewards)
    assert sum(advantages) == pytest.approx(0, abs=1e-6)
    order = sorted(range(len(rewards)), key=rewards.__getitem__)
    assert [advantages[i] for i in order] == sorted(advantages)

"""Learning-rate schedules."""

import pytest

from learner.schedule import Schedule, learning_rate


def rates(schedule, warmup=0, total=10):
    return [learning_rate(s, total=total, peak=1.0, warmup=warmup, schedule=schedule) for s in range(total)]


def test_linear_falls_to_nearly_zero():
    assert rates(Schedule.LINEAR) == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_warmup_starts_above_zero_and_reaches_the_peak():
    assert rates(Schedule.LINEAR, warmup=4)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_cosine_is_half_way_down_in_the_middle():
    assert rates(Schedule.COSINE)[5] == pytest.approx(0.5)


def test_constant_stays():
    assert set(rates(Schedule.CONSTANT)) == {1.0}


@pytest.mark.parametrize("schedule", list(Schedule))
def test_never_negative_past_the_end(schedule):
    assert learning_rate(50, total=10, peak=1.0, warmup=2, schedule=schedule) >= 0

"""More workers when the learner waits, fewer when it is waited for, and no back and forth."""

import pytest

from orchestrator.training.autoscale import PATIENCE, Autoscaler, Observation


def seen(waited=0.0, full=False, target=2, alive=None) -> Observation:
    return Observation(waited, full, target if alive is None else alive, target)


def decisions(scaler, observations):
    return [scaler.decide(o) for o in observations]


def test_waiting_that_lasts_asks_for_more():
    found = decisions(Autoscaler(1, 8), [seen(waited=0.5)] * PATIENCE)
    assert found[:-1] == [None] * (PATIENCE - 1)
    assert found[-1].count == 3
    assert "50%" in found[-1].reason


def test_one_slow_batch_does_not():
    found = decisions(Autoscaler(1, 8), [seen(waited=0.9), seen(), seen(waited=0.9), seen(), seen(waited=0.9)])
    assert found == [None] * 5


def test_rollouts_that_wait_ask_for_fewer():
    found = decisions(Autoscaler(1, 8), [seen(full=True, target=4)] * PATIENCE)
    assert found[-1].count == 3
    assert found[-1].reason.startswith("rollouts waited")


@pytest.mark.parametrize(("least", "most"), [(2, 2), (1, 2), (2, 4)])
def test_never_beyond_the_bounds(least, most):
    scaler, target = Autoscaler(least, most), 2
    for observation in [{"waited": 0.9}] * 20 + [{"full": True}] * 20:
        decision = scaler.decide(seen(**observation, target=target))
        if decision:
            assert least <= decision.count <= most
            target = decision.count
    assert target == least


def test_a_count_outside_the_bounds_is_brought_in_at_once():
    assert Autoscaler(2, 4).decide(seen(target=1)).count == 2
    assert Autoscaler(2, 4).decide(seen(target=9)).count == 4


def test_nothing_is_decided_before_the_last_decision_took_effect():
    scaler = Autoscaler(1, 8)
    assert decisions(scaler, [seen(waited=0.9)] * PATIENCE)[-1].count == 3
    assert decisions(scaler, [seen(waited=0.9, target=3, alive=2)] * 10) == [None] * 10
    found = decisions(scaler, [seen(waited=0.9, target=3)] * PATIENCE)
    assert found[:-1] == [None] * (PATIENCE - 1)
    assert found[-1].count == 5


def test_it_settles_where_neither_waits():
    """A learner that needs 4 workers: from 1 it gets there, and stays."""
    scaler, target, history = Autoscaler(1, 16), 1, []
    for _ in range(60):
        waited = max(0.0, 1 - target / 4)
        decision = scaler.decide(seen(waited=waited, full=target > 4, target=target))
        target = decision.count if decision else target
        history.append(target)
    assert history[-20:] == [4] * 20

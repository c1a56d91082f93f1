"""More workers if the learner waits, fewer if rollouts wait, and no oscillation."""

import pytest

from orchestrator.training.autoscale import PATIENCE, Autoscaler, Observation


def observed(waited=0.0, full=False, target=2, alive=None) -> Observation:
    return Observation(waited, full, target if alive is None else alive, target)


def decisions(scaler, observations):
    return [scaler.decide(o) for o in observations]


def test_lasting_waits_add_workers():
    found = decisions(Autoscaler(1, 8), [observed(waited=0.5)] * PATIENCE)
    assert found[:-1] == [None] * (PATIENCE - 1)
    assert found[-1].count == 3
    assert "50%" in found[-1].reason


def test_single_slow_batches_do_not():
    slow, fast = observed(waited=0.9), observed()
    assert decisions(Autoscaler(1, 8), [slow, fast, slow, fast, slow]) == [None] * 5


def test_waiting_rollouts_remove_a_worker():
    found = decisions(Autoscaler(1, 8), [observed(full=True, target=4)] * PATIENCE)
    assert found[-1].count == 3
    assert found[-1].reason.startswith("rollouts waited")


@pytest.mark.parametrize(("least", "most"), [(2, 2), (1, 2), (2, 4)])
def test_the_target_stays_within_the_bounds(least, most):
    scaler, target = Autoscaler(least, most), 2
    for observation in [{"waited": 0.9}] * 20 + [{"full": True}] * 20:
        decision = scaler.decide(observed(**observation, target=target))
        if decision:
            assert least <= decision.count <= most
            target = decision.count
    assert target == least


def test_a_target_outside_the_bounds_is_corrected_at_once():
    assert Autoscaler(2, 4).decide(observed(target=1)).count == 2
    assert Autoscaler(2, 4).decide(observed(target=9)).count == 4


def test_no_decision_before_the_last_one_has_taken_effect():
    scaler = Autoscaler(1, 8)
    assert decisions(scaler, [observed(waited=0.9)] * PATIENCE)[-1].count == 3
    assert decisions(scaler, [observed(waited=0.9, target=3, alive=2)] * 10) == [None] * 10
    found = decisions(scaler, [observed(waited=0.9, target=3)] * PATIENCE)
    assert found[:-1] == [None] * (PATIENCE - 1)
    assert found[-1].count == 5


def test_it_settles_where_neither_waits():
    """A learner needs 4 workers: the target rises from 1 to 4 and stays there."""
    scaler, target, history = Autoscaler(1, 16), 1, []
    for _ in range(60):
        waited = max(0.0, 1 - target / 4)
        decision = scaler.decide(observed(waited=waited, full=target > 4, target=target))
        target = decision.count if decision else target
        history.append(target)
    assert history[-20:] == [4] * 20


@pytest.mark.parametrize("target", [0, 1, 9])
def test_a_number_outside_the_bounds_that_was_requested_stays(target):
    scaler = Autoscaler(2, 4)
    asked = Observation(0.9, True, target, target, requested=True)
    assert decisions(scaler, [asked] * (2 * PATIENCE)) == [None] * (2 * PATIENCE)
    # Until another one is requested.
    found = decisions(scaler, [Observation(0.9, False, 2, 2, requested=True)] * (PATIENCE + 1))
    assert found[:-1] == [None] * PATIENCE
    assert found[-1].count == 3


def test_what_was_seen_before_a_request_does_not_count_after_it():
    scaler = Autoscaler(1, 8)
    before = [observed(waited=0.9, target=2)] * (PATIENCE - 1)
    after = [observed(waited=0.9, target=4)] * PATIENCE
    assert decisions(scaler, before + after) == [None] * (2 * PATIENCE - 1)

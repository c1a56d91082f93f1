"""Every term of every loss against values calculated by hand, and their common properties."""

import math

import pytest
import torch
from torch import tensor

from learner.losses.aggregate import token_weights
from learner.losses.cispo import cispo
from learner.losses.clipped import clipped
from learner.losses.correction import importance_weights
from learner.losses.gspo import gspo
from learner.losses.kl import kl_estimate
from learner.losses.objective import Tokens, objective
from learner.losses.settings import (
    Aggregate,
    Algorithm,
    CorrectionLevel,
    CorrectionMode,
    KlEstimator,
    LossSettings,
)
from learner.losses.supervised import supervised

# Two sequences: two tokens with advantage 1, and one token with advantage -2.
POLICY = (0.5, 0.25, 0.8)
SEQUENCES = tensor([0, 0, 1])
LENGTHS = tensor([2, 1])
ADVANTAGES = tensor([1.0, 1.0, -2.0])
# Policy over old policy: 2, 0.5, 1.6.
OLD = (0.25, 0.5, 0.5)
REFERENCE = (0.25, 0.5, 0.8)


def logs(probabilities) -> torch.Tensor:
    return tensor([math.log(p) for p in probabilities])


def policy() -> torch.Tensor:
    return logs(POLICY).requires_grad_()


def grad(loss: torch.Tensor, of: torch.Tensor) -> list[float]:
    loss.backward()
    assert of.grad is not None
    return of.grad.tolist()


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (Aggregate.SEQUENCE_MEAN, [0.25, 0.25, 0.5]),
        (Aggregate.TOKEN_MEAN, [1 / 3, 1 / 3, 1 / 3]),
        (Aggregate.CONSTANT, [1 / 20, 1 / 20, 1 / 20]),  # 10 tokens at most, 2 sequences
        (Aggregate.SEQUENCE_SUM, [0.5, 0.5, 0.5]),
    ],
)
def test_weights_by_hand(aggregate, expected):
    assert token_weights(aggregate, SEQUENCES, LENGTHS, 2, 3, 10).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("aggregate", list(Aggregate))
def test_a_masked_sequence_has_weight_zero(aggregate):
    weights = token_weights(aggregate, SEQUENCES, tensor([2, 0]), 1, 2, 10)
    assert weights[2] == 0
    assert (weights[:2] > 0).all()


def test_clipped_by_hand():
    # Ratios 2, 0.5, 1.6 bounded to [0.8, 1.28] are 1.28, 0.8, 1.28. With advantage 1 the smaller of 2 and 1.28 is
    # clipped, of 0.5 and 0.8 it is not; with advantage -2 the smaller of -3.2 and -2.56 is -3.2: not clipped.
    logprobs = policy()
    found = clipped(logprobs, logs(OLD), ADVANTAGES, clip_low=0.2, clip_high=0.28)
    assert found.terms.tolist() == pytest.approx([-1.28, -0.5, 3.2])
    assert found.clipped.tolist() == [True, False, False]
    assert found.ratio.tolist() == pytest.approx([2, 0.5, 1.6])
    # d(-r A) / d logprob = -r A where nothing is clipped, else 0.
    assert grad(found.terms.sum(), logprobs) == pytest.approx([0, -0.5, 3.2])


def test_clipped_from_below():
    # Ratio 0.5 with advantage -1: the smaller of -0.5 and -0.8 is -0.8: clipped, no gradient.
    logprobs = logs([0.25]).requires_grad_()
    found = clipped(logprobs, logs([0.5]), tensor([-1.0]), clip_low=0.2, clip_high=0.2)
    assert found.terms.tolist() == pytest.approx([0.8])
    assert found.clipped.tolist() == [True]
    assert grad(found.terms.sum(), logprobs) == [0.0]


def test_gspo_by_hand():
    # Sequence 0: the geometric mean of 2 and 0.5 is 1; sequence 1: 1.6, and bounded 1.1, at advantage -2: -3.2.
    logprobs = policy()
    found = gspo(logprobs, logs(OLD), ADVANTAGES, SEQUENCES, clip_low=0.1, clip_high=0.1)
    assert found.ratio.tolist() == pytest.approx([1, 1, 1.6])
    assert found.terms.tolist() == pytest.approx([-1, -1, 3.2])
    assert found.clipped.tolist() == [False, False, False]
    # Summed over the two tokens, d(-2 s) / d logprob = -2 s / 2 for each.
    assert grad(found.terms.sum(), logprobs) == pytest.approx([-1, -1, 3.2])


def test_gspo_clips_whole_sequences():
    found = gspo(logs((0.5, 0.5)), logs((0.25, 0.5)), tensor([1.0, 1.0]), tensor([4, 4]), clip_low=0.1, clip_high=0.1)
    assert found.ratio.tolist() == pytest.approx([math.sqrt(2)] * 2)
    assert found.terms.tolist() == pytest.approx([-1.1] * 2)
    assert found.clipped.tolist() == [True, True]


def test_cispo_by_hand():
    # Ratios 2, 0.5, 1.6 bounded to [0, 1.5]: 1.5, 0.5, 1.5. The loss is -bounded · A · logprob, so its gradient is
    # -bounded · A.
    logprobs = policy()
    found = cispo(logprobs, logs(OLD), ADVANTAGES, clip_low=1.0, clip_high=0.5)
    expected = [-1.5 * math.log(0.5), -0.5 * math.log(0.25), 3.0 * math.log(0.8)]
    assert found.terms.tolist() == pytest.approx(expected)
    assert found.clipped.tolist() == [True, False, True]
    assert grad(found.terms.sum(), logprobs) == pytest.approx([-1.5, -0.5, 3.0])


def test_kl_estimates_by_hand():
    # d = log reference - log policy: -log 2, log 2, 0.
    half_square = math.log(2) ** 2 / 2
    expected = {
        KlEstimator.K1: [math.log(2), -math.log(2), 0],
        KlEstimator.K2: [half_square, half_square, 0],
        KlEstimator.K3: [0.5 + math.log(2) - 1, 2 - math.log(2) - 1, 0],
    }
    for estimator, values in expected.items():
        assert kl_estimate(estimator, logs(POLICY), logs(REFERENCE)).tolist() == pytest.approx(values, abs=1e-6)


def test_kl_gradients_by_hand():
    # d k2 / d logprob = logprob - reference = -d; d k3 / d logprob = 1 - exp(d). k1 has the gradient of k2.
    minus_d = [math.log(2), -math.log(2), 0]
    expected = {KlEstimator.K1: minus_d, KlEstimator.K2: minus_d, KlEstimator.K3: [0.5, -1, 0]}
    for estimator, values in expected.items():
        logprobs = policy()
        assert grad(kl_estimate(estimator, logprobs, logs(REFERENCE)).sum(), logprobs) == pytest.approx(
            values, abs=1e-6
        )


@pytest.mark.parametrize("estimator", [KlEstimator.K2, KlEstimator.K3])
def test_k2_and_k3_are_never_negative(estimator):
    a, b = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    assert (kl_estimate(estimator, a, b) >= 0).all()


def test_importance_weights_by_hand():
    # Ratios of the learner's to the sampled probabilities: 2, 0.5, 1.6; of the sequences: 1 and 1.6.
    old, sampled = logs(POLICY), logs(OLD)

    def weights(level, mode, bound):
        return importance_weights(level, mode, bound, old, sampled, SEQUENCES).tolist()

    assert weights(CorrectionLevel.NONE, CorrectionMode.TRUNCATE, 1.5) == [1, 1, 1]
    assert weights(CorrectionLevel.TOKEN, CorrectionMode.TRUNCATE, 1.5) == pytest.approx([1.5, 0.5, 1.5])
    assert weights(CorrectionLevel.TOKEN, CorrectionMode.MASK, 1.5) == pytest.approx([0, 0, 0])
    assert weights(CorrectionLevel.TOKEN, CorrectionMode.MASK, 3.0) == pytest.approx([2, 0.5, 1.6])
    assert weights(CorrectionLevel.SEQUENCE, CorrectionMode.TRUNCATE, 1.5) == pytest.approx([1, 1, 1.5])
    assert weights(CorrectionLevel.SEQUENCE, CorrectionMode.MASK, 1.5) == pytest.approx([1, 1, 0])


def tokens(logprobs, **changes) -> Tokens:
    defaults = {
        "old": logprobs.detach(),
        "sampled": logprobs.detach(),
        "advantages": ADVANTAGES,
        "weights": token_weights(Aggregate.SEQUENCE_MEAN, SEQUENCES, LENGTHS, 2, 3, 10),
        "sequence_ids": SEQUENCES,
    }
    return Tokens(logprobs, **(defaults | changes))


def test_grpo_is_that_of_the_paper():
    # On-policy the ratio is 1: -(0.25 · 1 + 0.25 · 1 + 0.5 · -2) = 0.5; k3 as above, with the same weights.
    logprobs = policy()
    loss = objective(LossSettings(), 0.04, tokens(logprobs, reference=logs(REFERENCE)))
    kl = 0.25 * (0.5 + math.log(2) - 1) + 0.25 * (2 - math.log(2) - 1)
    assert float(loss.policy) == pytest.approx(0.5)
    assert float(loss.kl) == pytest.approx(kl, rel=1e-6)
    assert float(loss.total) == pytest.approx(0.5 + 0.04 * kl, rel=1e-6)
    expected = [
        -a * w + 0.04 * w * (1 - r)
        for a, w, r in zip(ADVANTAGES.tolist(), (0.25, 0.25, 0.5), (0.5, 2.0, 1.0), strict=True)
    ]
    assert grad(loss.total, logprobs) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_the_first_update_is_the_policy_gradient_for_every_algorithm(algorithm):
    """On-policy every surrogate's gradient is -advantage · weight: algorithms differ in weights and advantages only."""
    logprobs = policy()
    loss = objective(LossSettings(algorithm=algorithm), 0.0, tokens(logprobs))
    assert not loss.surrogate.clipped.any()
    assert grad(loss.total, logprobs) == pytest.approx([-0.25, -0.25, 1.0], rel=1e-6)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_zero_advantage_has_no_gradient(algorithm):
    logprobs = policy()
    changes = {"advantages": torch.zeros(3), "old": logs(OLD), "sampled": logs(OLD)}
    assert (
        grad(objective(LossSettings(algorithm=algorithm), 0.0, tokens(logprobs, **changes)).total, logprobs) == [0] * 3
    )


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_splitting_between_sequences_changes_nothing(algorithm):
    settings = LossSettings(
        algorithm=algorithm, correction={"level": "sequence", "bound": 1.5}, clip_low=0.3, clip_high=0.3
    )
    whole = tokens(logs(POLICY), old=logs(OLD), sampled=logs(REFERENCE), reference=logs(REFERENCE))
    parts = [Tokens(*(getattr(whole, name)[part] for name in Tokens.__slots__)) for part in (slice(0, 2), slice(2, 3))]
    total = float(objective(settings, 0.1, whole).total)
    assert sum(float(objective(settings, 0.1, part).total) for part in parts) == pytest.approx(total, rel=1e-6)


def test_the_correction_weights_the_policy_term():
    settings = LossSettings(correction={"level": "token", "bound": 2.5})
    loss = objective(settings, 0.0, tokens(logs(POLICY), sampled=logs(OLD)))
    assert float(loss.policy) == pytest.approx(-(0.25 * 2 + 0.25 * 0.5 - 2 * 0.5 * 1.6))


def test_beta_needs_a_reference():
    with pytest.raises(ValueError, match="reference"):
        objective(LossSettings(), 0.04, tokens(logs(POLICY)))


@pytest.mark.parametrize(
    ("algorithm", "advantage", "aggregate", "bounds"),
    [
        ("grpo", "group", "sequence_mean", (0.2, 0.2)),
        ("dr_grpo", "centred", "constant", (0.2, 0.2)),
        ("dapo", "group", "token_mean", (0.2, 0.28)),
        ("gspo", "group", "sequence_mean", (3e-4, 4e-4)),
        ("cispo", "group", "token_mean", (1.0, 4.0)),
        ("rloo", "leave_one_out", "sequence_sum", (0.2, 0.2)),
    ],
)
def test_an_algorithm_sets_the_defaults(algorithm, advantage, aggregate, bounds):
    settings = LossSettings(algorithm=algorithm)
    assert (settings.advantage, settings.aggregate) == (advantage, aggregate)
    assert (settings.clip_low, settings.clip_high) == bounds
    assert (settings.mask_truncated, settings.dynamic_sampling) == ((algorithm == "dapo"),) * 2
    own = LossSettings(algorithm=algorithm, aggregate="token_mean", clip_high=0.5, mask_truncated=False)
    assert (own.aggregate, own.clip_high, own.mask_truncated) == ("token_mean", 0.5, False)


def test_supervised_is_a_mean_over_tokens():
    expected = -(math.log(0.5) + math.log(0.25) + math.log(0.8)) / 3
    assert float(supervised(logs(POLICY), tokens=3)) == pytest.approx(expected)

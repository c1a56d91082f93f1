"""Every term of the loss against numbers worked out by hand."""

import math

import pytest
import torch

from learner.loss import grpo, k3, sequence_mean_weights, supervised

# Two sequences: one of two tokens with advantage 1, one of one token with advantage -2.
LOGPROBS = torch.tensor([math.log(0.5), math.log(0.25), math.log(0.8)])
REFERENCE = torch.tensor([math.log(0.25), math.log(0.5), math.log(0.8)])
SEQUENCES = torch.tensor([0, 0, 1])
LENGTHS = torch.tensor([2, 1])
ADVANTAGES = torch.tensor([1.0, 1.0, -2.0])
# k3 = r - log r - 1 with r = reference probability / policy probability: 0.5, 2 and 1.
K3 = [0.5 - math.log(0.5) - 1, 2 - math.log(2) - 1, 0.0]


def weights() -> torch.Tensor:
    return sequence_mean_weights(SEQUENCES, LENGTHS, sequences=2)


def test_k3_by_hand():
    assert k3(LOGPROBS, REFERENCE).tolist() == pytest.approx(K3, abs=1e-6)


def test_k3_is_never_negative():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1000, generator=generator)
    assert (k3(a, b) >= 0).all()


def test_weights_are_means_of_means():
    assert weights().tolist() == pytest.approx([0.25, 0.25, 0.5])


def test_policy_term_by_hand():
    # On-policy the ratio is 1: -(0.25 · 1 + 0.25 · 1 + 0.5 · -2) = 0.5.
    loss = grpo(LOGPROBS, ADVANTAGES, weights())
    assert float(loss.policy) == pytest.approx(0.5)
    assert float(loss.total) == pytest.approx(0.5)
    assert float(loss.kl) == 0.0


def test_kl_term_by_hand():
    loss = grpo(LOGPROBS, ADVANTAGES, weights(), reference=REFERENCE, beta=0.04)
    kl = 0.25 * K3[0] + 0.25 * K3[1]
    assert float(loss.kl) == pytest.approx(kl, rel=1e-6)
    assert float(loss.total) == pytest.approx(0.5 + 0.04 * kl, rel=1e-6)


def test_gradient_by_hand():
    # d(-ratio · A · w) = -A · w at ratio 1; d k3 / d logprob = 1 - r.
    logprobs = LOGPROBS.clone().requires_grad_()
    grpo(logprobs, ADVANTAGES, weights(), reference=REFERENCE, beta=0.04).total.backward()
    w = weights().tolist()
    expected = [-a * x + 0.04 * x * (1 - r) for a, x, r in zip(ADVANTAGES.tolist(), w, (0.5, 2.0, 1.0), strict=True)]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx(expected, rel=1e-6)


def test_equal_rewards_move_nothing_but_the_kl():
    logprobs = LOGPROBS.clone().requires_grad_()
    grpo(logprobs, torch.zeros(3), weights()).total.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, 0.0, 0.0]


def test_beta_needs_a_reference():
    with pytest.raises(ValueError, match="reference"):
        grpo(LOGPROBS, ADVANTAGES, weights(), beta=0.04)


def test_cutting_the_batch_changes_nothing():
    whole = grpo(LOGPROBS, ADVANTAGES, weights(), reference=REFERENCE, beta=0.04).total
    parts = [
        grpo(LOGPROBS[s], ADVANTAGES[s], weights()[s], reference=REFERENCE[s], beta=0.04).total
        for s in (slice(0, 1), slice(1, 2), slice(2, 3))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_supervised_is_a_mean_over_tokens():
    expected = -(math.log(0.5) + math.log(0.25) + math.log(0.8)) / 3
    assert float(supervised(LOGPROBS, tokens=3)) == pytest.approx(expected)

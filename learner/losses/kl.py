"""Estimates of KL(policy || reference) from sampled tokens (Schulman, 2020, "Approximating KL divergence").

With d = log reference - log policy at a token that the policy sampled:

    k1 = -d                    unbiased, of either sign, large variance
    k2 = d² / 2                biased, never negative
    k3 = exp(d) - d - 1        unbiased, never negative; used by R1-AQA

In a loss only the gradient matters. The gradient of k1 has mean zero, whatever the KL; that of k2 is the gradient of
the KL (Tang and Munos, 2025, "On a few pitfalls in KL divergence gradient estimation for RL", arXiv:2506.09477). So
`k1` has the value of k1 and the gradient of k2.
"""

import torch

from learner.losses.settings import KlEstimator


def kl_estimate(estimator: KlEstimator, logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return the estimate at each token, shape (N,), with the gradient for a loss.

    Args:
        logprobs: log-probabilities under the policy, shape (N,), with gradient.
        reference: log-probabilities under the frozen reference, shape (N,), without gradient.
    """
    difference = reference - logprobs
    match estimator:
        case KlEstimator.K1:
            half_square = difference.square() / 2
            return half_square + (-difference - half_square).detach()
        case KlEstimator.K2:
            return difference.square() / 2
        case KlEstimator.K3:
            return difference.exp() - difference - 1

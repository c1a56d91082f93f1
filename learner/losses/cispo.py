"""CISPO: the clipped ratio is a constant weight, so every token keeps its gradient.

MiniMax, 2025, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention" (arXiv:2506.13585), eq. 4
and 5.
"""

import torch

from learner.losses.surrogate import Surrogate


def cispo(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, *, clip_low: float, clip_high: float
) -> Surrogate:
    """Return -stop_gradient(clip(r, 1 - clip_low, 1 + clip_high)) · A · log policy at each token.

    Args:
        logprobs: log-probabilities under the policy, shape (N,), with gradient.
        old: log-probabilities under the policy that the batch started with, shape (N,).
        advantages: advantage of the completion that each token belongs to, shape (N,).
    """
    ratio = (logprobs - old).exp().detach()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    return Surrogate(-bounded * advantages * logprobs, ratio, bounded != ratio)

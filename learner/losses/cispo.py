"""CISPO: the ratio is bounded and then only weighs, so every token keeps its gradient.

MiniMax, 2025, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention", eq. 4 and 5.
"""

import torch

from learner.losses.surrogate import Surrogate


def cispo(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, *, clip_low: float, clip_high: float
) -> Surrogate:
    """-stop_gradient(clip(r, 1 - clip_low, 1 + clip_high)) · A · log policy, at each token.

    Args:
        logprobs: of the policy, shape (N,), with gradient.
        old: of the policy that the batch started with, shape (N,).
        advantages: of the completion each token belongs to, shape (N,).
    """
    ratio = (logprobs - old).exp().detach()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    return Surrogate(-bounded * advantages * logprobs, ratio, bounded != ratio)

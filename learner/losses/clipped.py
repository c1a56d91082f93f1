"""The clipped surrogate at each token: GRPO, Dr. GRPO, DAPO and RLOO differ in what they feed it.

PPO's objective (Schulman et al., 2017, "Proximal Policy Optimization", eq. 7) with group advantages (Shao et al., 2024,
"DeepSeekMath", eq. 3). With a wider bound above it is DAPO's clip-higher (Yu et al., 2025, "DAPO", eq. 10).
"""

import torch

from learner.losses.surrogate import Surrogate


def clipped(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, *, clip_low: float, clip_high: float
) -> Surrogate:
    """-min(r · A, clip(r, 1 - clip_low, 1 + clip_high) · A) with r = policy / old policy, at each token.

    On the first update of a batch r is 1 and carries the gradient only: nothing is clipped.

    Args:
        logprobs: of the policy, shape (N,), with gradient.
        old: of the policy that the batch started with, shape (N,).
        advantages: of the completion each token belongs to, shape (N,).
    """
    ratio = (logprobs - old).exp()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    terms = -torch.minimum(ratio * advantages, bounded * advantages)
    cut = (bounded * advantages < ratio * advantages).detach()
    return Surrogate(terms, ratio.detach(), cut)

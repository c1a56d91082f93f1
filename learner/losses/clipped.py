"""The clipped surrogate at each token. GRPO, Dr. GRPO, DAPO and RLOO differ in its inputs only.

PPO's objective (Schulman et al., 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347, eq. 7) with group
advantages (Shao et al., 2024, "DeepSeekMath", arXiv:2402.03300, eq. 3). With a wider upper bound it is DAPO's
clip-higher (Yu et al., 2025, "DAPO", arXiv:2503.14476, eq. 10).
"""

import torch

from learner.losses.surrogate import Surrogate


def clipped(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, *, clip_low: float, clip_high: float
) -> Surrogate:
    """Return -min(r · A, clip(r, 1 - clip_low, 1 + clip_high) · A) with r = policy / old policy, at each token.

    On the first update of a batch r is 1 and only carries the gradient: nothing is clipped.

    Args:
        logprobs: log-probabilities under the policy, shape (N,), with gradient.
        old: log-probabilities under the policy that the batch started with, shape (N,).
        advantages: advantage of the completion that each token belongs to, shape (N,).
    """
    ratio = (logprobs - old).exp()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    terms = -torch.minimum(ratio * advantages, bounded * advantages)
    is_clipped = (bounded * advantages < ratio * advantages).detach()
    return Surrogate(terms, ratio.detach(), is_clipped)

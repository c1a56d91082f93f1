"""GSPO: one ratio per completion.

Zheng et al., 2025, "Group Sequence Policy Optimization" (arXiv:2507.18071), eq. 5 to 7.
"""

import torch

from learner.losses.surrogate import Surrogate


def gspo(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    sequence_ids: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    """Return -min(s · A, clip(s, 1 - clip_low, 1 + clip_high) · A), the same at every token of a completion.

    s is the geometric mean of the token ratios: exp of the mean of their logarithms. All tokens of a completion must be
    among the N. Bounds are far narrower than those of token ratios: the paper uses 3e-4 and 4e-4.

    Args:
        logprobs: log-probabilities under the policy, shape (N,), with gradient.
        old: log-probabilities under the policy that the batch started with, shape (N,).
        advantages: advantage of the completion that each token belongs to, shape (N,).
        sequence_ids: index of the completion that each token belongs to, shape (N,).
    """
    _, index = torch.unique(sequence_ids, return_inverse=True)
    index = index.to(logprobs.device)
    count = int(index.max()) + 1 if len(index) else 0
    sums = torch.zeros(count, dtype=logprobs.dtype, device=logprobs.device).index_add(0, index, logprobs - old)
    lengths = torch.bincount(index, minlength=count)
    ratio = (sums / lengths).exp()[index]
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    terms = -torch.minimum(ratio * advantages, bounded * advantages)
    is_clipped = (bounded * advantages < ratio * advantages).detach()
    return Surrogate(terms, ratio.detach(), is_clipped)

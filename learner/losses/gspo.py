"""GSPO: one ratio for a whole completion (Zheng et al., 2025, "Group Sequence Policy Optimization", eq. 5 to 7)."""

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
    """-min(s · A, clip(s, 1 - clip_low, 1 + clip_high) · A), the same at every token of a completion.

    s is the geometric mean of the token ratios: exp of the mean of their logarithms. All tokens of a completion must be
    among the N. Bounds are far narrower than those of token ratios: the paper uses 3e-4 and 4e-4.

    Args:
        logprobs: of the policy, shape (N,), with gradient.
        old: of the policy that the batch started with, shape (N,).
        advantages: of the completion each token belongs to, shape (N,).
        sequence_ids: which completion each token belongs to, shape (N,).
    """
    _, places = torch.unique(sequence_ids, return_inverse=True)
    places = places.to(logprobs.device)
    count = int(places.max()) + 1 if len(places) else 0
    sums = torch.zeros(count, dtype=logprobs.dtype, device=logprobs.device).index_add(0, places, logprobs - old)
    lengths = torch.bincount(places, minlength=count)
    ratio = (sums / lengths).exp()[places]
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    terms = -torch.minimum(ratio * advantages, bounded * advantages)
    cut = (bounded * advantages < ratio * advantages).detach()
    return Surrogate(terms, ratio.detach(), cut)

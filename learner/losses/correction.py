"""Truncated importance weights between the policy that sampled and the policy that the batch started with.

They correct for two effects: the rollout worker's arithmetic differs from the learner's, and in asynchronous training
its weights are older. Token level: Yao et al., 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
Training". The bound on the weights: Ionides, 2008, "Truncated Importance Sampling".
"""

import torch

from learner.losses.settings import CorrectionLevel, CorrectionMode


def importance_weights(
    level: CorrectionLevel | None,
    mode: CorrectionMode,
    bound: float,
    old: torch.Tensor,
    sampled: torch.Tensor,
    sequence_ids: torch.Tensor,
) -> torch.Tensor:
    """Return the factor of each token's loss, shape (N,), without gradient.

    All tokens of a completion must be among the N.

    Args:
        bound: the largest weight, above 1.
        old: log-probabilities under the policy that the batch started with, shape (N,).
        sampled: log-probabilities that the rollout worker sampled with, shape (N,).
        sequence_ids: index of the completion that each token belongs to, shape (N,).
    """
    difference = (old - sampled).detach()
    if level is None or level is CorrectionLevel.NONE:
        return torch.ones_like(difference)
    if level is CorrectionLevel.SEQUENCE:
        _, index = torch.unique(sequence_ids, return_inverse=True)
        index = index.to(difference.device)
        count = int(index.max()) + 1 if len(index) else 0
        difference = torch.zeros(count, device=difference.device).index_add(0, index, difference)[index]
    weights = difference.exp()
    if mode is CorrectionMode.TRUNCATE:
        return weights.clamp(max=bound)
    return torch.where((weights <= bound) & (weights >= 1 / bound), weights, torch.zeros_like(weights))

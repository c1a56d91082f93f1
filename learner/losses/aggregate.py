"""Compute each token's weight in the batch's loss. Counts are those of the whole batch, on every rank."""

import torch

from learner.losses.settings import Aggregate


def token_weights(
    aggregate: Aggregate,
    sequence_ids: torch.Tensor,
    lengths: torch.Tensor,
    sequences: int,
    tokens: int,
    max_tokens: int,
) -> torch.Tensor:
    """Return each token's weight, float32, shape (N,).

    Args:
        sequence_ids: index of the sequence that each of the N tokens belongs to.
        lengths: number of tokens of every sequence of the whole batch, shape (S,); 0 for a masked one.
        sequences: number of sequences that a mean is taken over: the whole batch, including those without gradient.
        tokens: number of tokens of these sequences.
        max_tokens: the maximum length of a completion.
    """
    own = lengths[sequence_ids].float()
    match aggregate:
        case Aggregate.SEQUENCE_MEAN:
            shares = 1.0 / (own * sequences)
        case Aggregate.TOKEN_MEAN:
            shares = torch.full_like(own, 1.0 / tokens)
        case Aggregate.CONSTANT:
            shares = torch.full_like(own, 1.0 / (max_tokens * sequences))
        case Aggregate.SEQUENCE_SUM:
            shares = torch.full_like(own, 1.0 / sequences)
    return torch.where(own > 0, shares, torch.zeros_like(own))

"""How tokens become one number: each token's share in the batch's loss. Counts are the whole batch's on every rank."""

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
    """Each token's share, float32, shape (N,).

    Args:
        sequence_ids: which sequence each of the N tokens belongs to.
        lengths: tokens of every sequence of the whole batch, shape (S,); 0 where one is masked.
        sequences: how many sequences a mean is taken over: of the whole batch, those that teach nothing included.
        tokens: how many tokens they have.
        max_tokens: the longest completion allowed.
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

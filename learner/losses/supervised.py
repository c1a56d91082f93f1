"""Cross entropy of given answers."""

import torch


def supervised(logprobs: torch.Tensor, tokens: int) -> torch.Tensor:
    """The mean over all target tokens of the whole batch: this part's share of it.

    Args:
        logprobs: of target tokens, shape (N,).
        tokens: target tokens of the whole batch.
    """
    return -logprobs.sum() / tokens

"""The supervised loss: cross entropy of the target answers."""

import torch


def supervised(logprobs: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return this part's contribution to the mean over all target tokens of the batch.

    Args:
        logprobs: log-probabilities of the target tokens, shape (N,).
        tokens: number of target tokens of the whole batch.
    """
    return -logprobs.sum() / tokens

"""From hidden states to log-probabilities of given tokens, in pieces, so that no (N, V) table outgrows the memory."""

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**27
"""Logits computed at once: 512 MiB in float32."""


def score_tokens(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    *,
    allowed: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Natural log-probability of each target and entropy (nats) of its distribution, float32, shape (N,) each.

    A target that is not allowed, which no rollout worker samples, scores 0 without a gradient: it cannot break a batch.

    Args:
        head: from hidden states, shape (n, H), to logits, shape (n, V).
        hidden: shape (N, H).
        targets: int64, shape (N,).
        allowed: bool, shape (V,): which tokens can be sampled at all.
        temperature: what logits are divided by.
    """

    def score(states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _score(head(states), tokens, allowed, temperature)

    size = max(1, CHUNK_ELEMENTS // len(allowed))
    if len(targets) <= size:
        return score(hidden, targets)
    # A piece's logits are computed again in the backward pass instead of being kept for it.
    pieces = [
        checkpoint(score, hidden[at : at + size], targets[at : at + size], use_reentrant=False)
        for at in range(0, len(targets), size)
    ]
    return torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces])


def _score(
    logits: torch.Tensor, targets: torch.Tensor, allowed: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.float().masked_fill(~allowed, -torch.inf)
    if temperature != 1.0:
        logits = logits / temperature
    distribution = logits.log_softmax(dim=-1)
    possible = allowed[targets]
    # A banned token has no finite score; any allowed one stands in for it, and its score is then taken out again.
    stand_in = torch.where(possible, targets, allowed.int().argmax())
    logprobs = distribution.gather(1, stand_in[:, None])[:, 0]
    logprobs = torch.where(possible, logprobs, torch.zeros_like(logprobs))
    with torch.no_grad():
        entropy = -(distribution.exp() * distribution.masked_fill(~allowed, 0.0)).sum(dim=-1)
    return logprobs, entropy

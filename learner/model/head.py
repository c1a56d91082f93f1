"""Log-probabilities of target tokens from hidden states, computed in chunks that limit the memory of the logits."""

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**27
"""Maximum number of logits computed at once: 512 MiB in float32."""


def score_tokens(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    *,
    allowed: torch.Tensor,
    temperature: float,
    at_least: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the natural log-probability of each target and the entropy (nats) of its distribution.

    Both are float32 of shape (N,). A banned target, which no rollout worker samples, scores 0 without a gradient, so it
    cannot break a batch.

    Args:
        head: maps hidden states, shape (n, H), to logits, shape (n, V).
        hidden: hidden states, shape (N, H).
        targets: target tokens, int64, shape (N,).
        allowed: tokens that can be sampled, bool, shape (V,).
        temperature: divisor of the logits.
        at_least: minimum number of chunks, empty ones if there are too few targets. The head is called once for each.
    """

    def score(states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _score(head(states), tokens, allowed, temperature)

    count = max(chunk_count(len(targets), len(allowed)), at_least)
    if count == 1:
        return score(hidden, targets)
    each, larger = divmod(len(targets), count)
    sizes = [each + (i < larger) for i in range(count)]
    # The logits of a chunk are recomputed in the backward pass instead of being kept for it.
    chunks = [
        checkpoint(score, states, tokens, use_reentrant=False)
        for states, tokens in zip(torch.split(hidden, sizes), torch.split(targets, sizes), strict=True)
    ]
    return torch.cat([c[0] for c in chunks]), torch.cat([c[1] for c in chunks])


def chunk_count(targets: int, vocabulary: int) -> int:
    """Return the number of chunks that so many target tokens need, at least 1."""
    return max(1, -(-targets // max(1, CHUNK_ELEMENTS // vocabulary)))


def _score(
    logits: torch.Tensor, targets: torch.Tensor, allowed: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.float().masked_fill(~allowed, -torch.inf)
    if temperature != 1.0:
        logits = logits / temperature
    distribution = logits.log_softmax(dim=-1)
    is_allowed = allowed[targets]
    # A banned token has no finite score: the score of an allowed one is gathered instead and replaced by zero.
    finite_targets = torch.where(is_allowed, targets, allowed.int().argmax())
    logprobs = distribution.gather(1, finite_targets[:, None])[:, 0]
    logprobs = torch.where(is_allowed, logprobs, torch.zeros_like(logprobs))
    with torch.no_grad():
        entropy = -(distribution.exp() * distribution.masked_fill(~allowed, 0.0)).sum(dim=-1)
    return logprobs, entropy

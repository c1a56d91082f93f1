"""The paper's GRPO loss, as sums: dividing by the whole batch's counts happens before, in the weights.

Every function takes N tokens of any number of completions, so a loss summed over micro-batches and ranks is the loss
of the batch, however it was cut.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class GrpoLoss:
    """The terms of the loss for some of a batch's tokens; `total` carries the gradient."""

    total: torch.Tensor
    policy: torch.Tensor
    """Scalar: -advantage · ratio, the mean over sequences of the mean over a sequence's tokens (this part of it)."""
    kl: torch.Tensor
    """Scalar: the k3 estimate, averaged the same way, before the factor beta."""


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Estimate of KL(policy || reference) at each token, shape (N,): exp(d) - d - 1 with d = reference - policy.

    Never negative, unbiased for tokens sampled from the policy (Schulman, 2020, "Approximating KL divergence").
    """
    difference = reference - logprobs
    return difference.exp() - difference - 1


def sequence_mean_weights(sequence_ids: torch.Tensor, lengths: torch.Tensor, sequences: int) -> torch.Tensor:
    """Each token's share in a mean over sequences of per-sequence means, shape (N,).

    Args:
        sequence_ids: which sequence each of the N tokens belongs to.
        lengths: tokens of every sequence of the whole batch, shape (S,).
        sequences: how many sequences the mean is taken over, in the whole batch.
    """
    return 1.0 / (lengths[sequence_ids].float() * sequences)


def grpo(
    logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    *,
    reference: torch.Tensor | None = None,
    beta: float = 0.0,
) -> GrpoLoss:
    """The paper's GRPO without ratio clipping: strictly on-policy, so the ratio is 1 and carries the gradient only.

    Args:
        logprobs: of the policy being trained, shape (N,).
        advantages: of the completion each token belongs to, shape (N,).
        weights: each token's share in the batch's mean, shape (N,).
        reference: log-probabilities under the frozen reference, shape (N,); needed exactly where beta > 0.
        beta: weight of the KL term.
    """
    ratio = (logprobs - logprobs.detach()).exp()
    policy = -(ratio * advantages * weights).sum()
    if beta == 0.0:
        return GrpoLoss(policy, policy.detach(), torch.zeros_like(policy))
    if reference is None:
        raise ValueError("beta > 0 needs the reference's log-probabilities")
    kl = (k3(logprobs, reference) * weights).sum()
    return GrpoLoss(policy + beta * kl, policy.detach(), kl.detach())


def supervised(logprobs: torch.Tensor, tokens: int) -> torch.Tensor:
    """Cross entropy, the mean over all target tokens of the batch: this part's share of it."""
    return -logprobs.sum() / tokens

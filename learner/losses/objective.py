"""Puts the pieces of a job's loss together; the only place that knows which algorithm is which."""

from dataclasses import dataclass

import torch

from learner.losses.cispo import cispo
from learner.losses.clipped import clipped
from learner.losses.correction import importance_weights
from learner.losses.gspo import gspo
from learner.losses.kl import kl_estimate
from learner.losses.settings import Algorithm, LossSettings
from learner.losses.surrogate import Surrogate


@dataclass(frozen=True, slots=True)
class Tokens:
    """N tokens of whole completions, each tensor of shape (N,)."""

    logprobs: torch.Tensor
    """Of the policy, with gradient."""
    old: torch.Tensor
    """Of the policy that the batch started with: `logprobs` themselves on its first update."""
    sampled: torch.Tensor
    """As the rollout worker sampled them."""
    advantages: torch.Tensor
    weights: torch.Tensor
    """Each token's share in the batch's loss (`learner.losses.aggregate`)."""
    sequence_ids: torch.Tensor
    reference: torch.Tensor | None = None
    """Of the frozen reference; needed exactly where beta > 0."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of some of a batch's tokens, as their part of the batch's; `total` carries the gradient."""

    total: torch.Tensor
    policy: torch.Tensor
    kl: torch.Tensor
    """Before the factor beta; 0 without a reference."""
    surrogate: Surrogate
    importance: torch.Tensor
    """Shape (N,): the factor of each token's policy loss."""


def objective(settings: LossSettings, beta: float, tokens: Tokens) -> Loss:
    """The job's loss on some tokens of a batch. Raises ValueError where beta > 0 and there is no reference."""
    surrogate = _surrogate(settings, tokens)
    correction = settings.correction
    importance = importance_weights(
        correction.level, correction.mode, correction.bound, tokens.old, tokens.sampled, tokens.sequence_ids
    )
    policy = (surrogate.terms * importance * tokens.weights).sum()
    if beta == 0.0:
        return Loss(policy, policy.detach(), torch.zeros_like(policy), surrogate, importance)
    if tokens.reference is None:
        raise ValueError("beta > 0 needs the reference's log-probabilities")
    kl = (kl_estimate(settings.kl, tokens.logprobs, tokens.reference) * tokens.weights).sum()
    return Loss(policy + beta * kl, policy.detach(), kl.detach(), surrogate, importance)


def _surrogate(settings: LossSettings, tokens: Tokens) -> Surrogate:
    low, high = settings.choices.clip_low, settings.choices.clip_high
    given = (tokens.logprobs, tokens.old, tokens.advantages)
    match settings.algorithm:
        case Algorithm.GSPO:
            return gspo(*given, tokens.sequence_ids, clip_low=low, clip_high=high)
        case Algorithm.CISPO:
            return cispo(*given, clip_low=low, clip_high=high)
        case _:
            return clipped(*given, clip_low=low, clip_high=high)

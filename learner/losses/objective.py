"""Compose a job's loss from its parts. This is the only module that knows which algorithm is which."""

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
    """Log-probabilities under the policy, with gradient."""
    old: torch.Tensor
    """Log-probabilities under the policy that the batch started with: `logprobs` on the first update."""
    sampled: torch.Tensor
    """Log-probabilities that the rollout worker sampled with."""
    advantages: torch.Tensor
    weights: torch.Tensor
    """Each token's weight in the batch's loss (`learner.losses.aggregate`)."""
    sequence_ids: torch.Tensor
    reference: torch.Tensor | None = None
    """Log-probabilities under the frozen reference; required if beta > 0."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The contribution of some tokens to the loss of their batch; `total` carries the gradient."""

    total: torch.Tensor
    policy: torch.Tensor
    kl: torch.Tensor
    """KL term before the factor beta; 0 without a reference."""
    surrogate: Surrogate
    importance: torch.Tensor
    """Factor of each token's policy loss, shape (N,)."""


def objective(settings: LossSettings, beta: float, tokens: Tokens) -> Loss:
    """Return the job's loss on some tokens of a batch. Raises ValueError if beta > 0 and there is no reference."""
    surrogate = _surrogate(settings, tokens)
    correction = settings.correction
    importance = importance_weights(
        correction.level, correction.mode, correction.bound, tokens.old, tokens.sampled, tokens.sequence_ids
    )
    policy = (surrogate.terms * importance * tokens.weights).sum()
    if beta == 0.0:
        return Loss(policy, policy.detach(), torch.zeros_like(policy), surrogate, importance)
    if tokens.reference is None:
        raise ValueError("beta > 0 requires the log-probabilities of the reference")
    kl = (kl_estimate(settings.kl, tokens.logprobs, tokens.reference) * tokens.weights).sum()
    return Loss(policy + beta * kl, policy.detach(), kl.detach(), surrogate, importance)


def _surrogate(settings: LossSettings, tokens: Tokens) -> Surrogate:
    low, high = settings.choices.clip_low, settings.choices.clip_high
    inputs = (tokens.logprobs, tokens.old, tokens.advantages)
    match settings.algorithm:
        case Algorithm.GSPO:
            return gspo(*inputs, tokens.sequence_ids, clip_low=low, clip_high=high)
        case Algorithm.CISPO:
            return cispo(*inputs, clip_low=low, clip_high=high)
        case Algorithm.GRPO | Algorithm.DR_GRPO | Algorithm.DAPO | Algorithm.RLOO:
            return clipped(*inputs, clip_low=low, clip_high=high)

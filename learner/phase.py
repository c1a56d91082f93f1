"""What the controller says to the ranks of a phase of training, and what a rank answers of a step."""

from dataclasses import dataclass

from learner.settings import OptimizerSettings


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with one optimizer: the supervised warm start, or the reinforcement learning."""

    optimizer: OptimizerSettings
    total_steps: int
    temperature: float = 1.0
    """What completions are sampled with, and therefore scored with."""
    beta: float = 0.0
    """Above 0, the model at the phase's start is kept as the reference."""


@dataclass(slots=True)
class Tally:
    """Sums over the tokens a rank has seen in one step; added up over ranks, they give the step's metrics."""

    tokens: int = 0
    loss: float = 0.0
    policy: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    ratio: float = 0.0
    logprob_gap: float = 0.0
    """Largest difference between the learner's and the rollout worker's log-probability of a token."""
    grad_norm: float = 0.0
    learning_rate: float = 0.0

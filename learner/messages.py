"""Messages between the controller loop and the learner ranks: settings of a training phase, statistics of a step."""

from dataclasses import dataclass, fields

from learner.settings import OptimizerSettings
from protocol.weights import Bucket


@dataclass(frozen=True, slots=True)
class PhaseSettings:
    """Settings of a training phase, which has one optimizer: the supervised warm start, or reinforcement learning."""

    optimizer: OptimizerSettings
    total_steps: int
    """Optimizer steps of the whole phase; the learning-rate schedule ends there."""
    temperature: float = 1.0
    """Sampling temperature, which scoring uses as well."""
    beta: float = 0.0
    """Weight of the KL term. Above 0, the model at the start of the phase is kept as the reference."""
    max_tokens: int = 1
    """Maximum number of tokens of a completion."""


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Denominators of a batch's loss. They include completions without gradient that were left out of the batch."""

    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True)
class NumberedBucket:
    """A bucket that one rank has put into the object store."""

    number: int
    """Index among the buckets of all ranks."""
    bucket: Bucket
    audio: bool
    """True if it contains weights of the audio tower or the projector."""


@dataclass(slots=True)
class StepStats:
    """Sums over the tokens that one rank processed in a step. Added up over ranks, they give the step's metrics."""

    tokens: int = 0
    loss: float = 0.0
    policy: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    ratio: float = 0.0
    clipped: float = 0.0
    importance: float = 0.0
    logprob_gap: float = 0.0
    """Largest difference between the learner's and the rollout worker's log-probability of a token."""
    tokens_computed: int = 0
    """Tokens that went through the model: prompts, once for every row that contains them, and completions."""
    micro_batches: int = 0
    shared_groups: int = 0
    """Groups whose prompt was computed once."""
    groups: int = 0
    """Groups of more than one completion."""
    updates: int = 0
    """Optimizer steps that changed parameters."""
    nonfinite: int = 0
    """Optimizer steps that were skipped because a loss or a gradient was not finite."""
    cut_smaller: int = 0
    """1 if a batch did not fit into memory and was split into smaller micro-batches."""
    grad_norm: float = 0.0
    learning_rate: float = 0.0

    def add(self, other: "StepStats") -> None:
        """Add the sums of another step or micro-batch. The larger gap, and the later norm and rate, are kept."""
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            match field.name:
                case "logprob_gap":
                    setattr(self, field.name, max(ours, theirs))
                case "grad_norm" | "learning_rate":
                    setattr(self, field.name, theirs)
                case _:
                    setattr(self, field.name, ours + theirs)

"""What the controller says to the ranks of a phase of training, and what a rank answers of a step."""

from dataclasses import dataclass, fields

from learner.settings import OptimizerSettings
from protocol.weights import Bucket


@dataclass(frozen=True, slots=True)
class TrainingPhase:
    """A stretch of training with one optimizer: supervised, or the reinforcement learning."""

    optimizer: OptimizerSettings
    total_steps: int
    """Optimizer steps of the whole phase: where the learning rate's schedule ends."""
    temperature: float = 1.0
    """What completions are sampled with, and therefore scored with."""
    beta: float = 0.0
    """Above 0, the model at the phase's start is kept as the reference."""
    max_tokens: int = 1
    """The longest completion."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the loss of a batch is divided by: also of completions that teach nothing and are not in it."""

    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True)
class PlacedBucket:
    """A bucket that one rank has put into the object store."""

    place: int
    """Among the buckets of all ranks."""
    bucket: Bucket
    audio: bool
    """Whether it holds weights of the audio tower or the projector."""


@dataclass(slots=True)
class Tally:
    """Sums over the tokens a rank has seen in one step; added up over ranks, they give the step's metrics."""

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
    """Tokens that went through the model: prompts, once for every row that holds them, and completions."""
    micro_batches: int = 0
    shared_groups: int = 0
    """Groups whose prompt was computed once."""
    groups: int = 0
    """Groups of more than one completion."""
    updates: int = 0
    """Optimizer steps that were made."""
    nonfinite: int = 0
    """Optimizer steps that were not made, because a loss or a gradient was not finite."""
    cut_smaller: int = 0
    """1 where a batch did not fit into the memory and was cut smaller."""
    grad_norm: float = 0.0
    learning_rate: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add another step's, or another micro-batch's, sums; the gap is the larger, norm and rate are the later."""
        for field in fields(self):
            mine, its = getattr(self, field.name), getattr(other, field.name)
            match field.name:
                case "logprob_gap":
                    setattr(self, field.name, max(mine, its))
                case "grad_norm" | "learning_rate":
                    setattr(self, field.name, its)
                case _:
                    setattr(self, field.name, mine + its)

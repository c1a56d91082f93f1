"""Messages between the driver and the learner."""

from dataclasses import dataclass

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question


@dataclass(frozen=True, slots=True)
class TrainingCompletion:
    """One completion of C tokens, for the learner."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """C log-probabilities under the weights that sampled the tokens."""
    advantage: float
    counts: bool = True
    """False for a scored completion that is excluded from the loss: it was truncated, and those are masked."""


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """One question with its scored completions."""

    question: Question
    template: PromptTemplate
    prompt_token_ids: tuple[int, ...]
    """Prompt as the engine read it; the learner refuses to train on a prompt that it tokenises differently."""
    completions: tuple[TrainingCompletion, ...]
    weight_version: int


@dataclass(frozen=True, slots=True)
class SupervisedExample:
    """One question with its target answer."""

    question: Question
    template: PromptTemplate
    target: str


@dataclass(frozen=True, slots=True)
class Learned:
    """Result of one optimizer step."""

    version: int
    """The weight version after the step."""
    metrics: dict[str, float]
    """Metrics, by their names in the metrics file: loss/policy, loss/kl, kl/ref, entropy, …"""

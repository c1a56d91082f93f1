"""Messages between the controller and the learner."""

from dataclasses import dataclass

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question


@dataclass(frozen=True, slots=True)
class TrainingCompletion:
    """One completion of C tokens as the learner sees it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """C log-probabilities under the weights that sampled it."""
    advantage: float
    counts: bool = True
    """False for a completion that nothing is learnt from, though it was scored: it was cut and those are masked."""


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """One question with the completions that count (those that could not be scored are left out)."""

    question: Question
    template: PromptTemplate
    prompt_token_ids: tuple[int, ...]
    """What the rollout worker's engine read: the learner refuses to train on a prompt it tokenises differently."""
    completions: tuple[TrainingCompletion, ...]
    weight_version: int


@dataclass(frozen=True, slots=True)
class SupervisedExample:
    """One question with the text to answer it with."""

    question: Question
    template: PromptTemplate
    target: str


@dataclass(frozen=True, slots=True)
class Learned:
    """What one optimizer step did."""

    version: int
    """The weight version after the step."""
    metrics: dict[str, float]
    """By the names of the metrics file: loss/policy, loss/kl, kl/ref, entropy, …"""

"""Completions of training questions, scored: the lines of `samples.jsonl`; of held-out ones: of `evaluated.jsonl`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.reward import Score
from protocol.rollout import Group


@dataclass(frozen=True, slots=True)
class Sample:
    """One scored completion: a line of `samples.jsonl`."""

    step: int
    """Learner step that used or discarded it."""
    question_key: str
    draw: int
    """Number of the draw it answers, as in the ledger."""
    question: str
    choices: tuple[str, ...]
    answer: str
    audio: str
    """Path of the clip."""
    text: str
    """Text of the completion."""
    rewards: Mapping[str, float]
    """Unweighted rewards by reward function."""
    reward: float | None
    """Weighted sum of the rewards; None if the completion could not be scored."""
    advantage: float | None
    """Advantage; None if the completion could not be scored, 0 in a group of equal rewards."""
    valid: bool
    error: str | None
    """Why it could not be scored."""
    stop_reason: str
    weight_version: int
    """Version of the weights that sampled it."""
    learner_version: int
    """Weight version of the learner when it took the group; the difference is the staleness."""
    worker: str


@dataclass(frozen=True, slots=True)
class EvaluatedSample:
    """One completion of a held-out question: a line of `evaluated.jsonl`."""

    step: int
    """Learner step after which it was asked."""
    question_key: str
    control: str | None
    """`silence` or `shuffled`; None with its own clip."""
    question: str
    choices: tuple[str, ...]
    answer: str
    """The right choice; empty if it is not known."""
    audio: str
    """Path of the clip that was heard; with silence, of the clip that it replaced."""
    text: str
    """Text of the completion."""
    right: bool | None
    """True if it is right by the paper's rule; None without an answer to judge by."""
    tokens: int
    stop_reason: str
    weight_version: int
    """Version of the weights that sampled it."""
    worker: str


def group_samples(
    group: Group,
    scores: Sequence[Score],
    advantages: Sequence[float | None],
    *,
    draw: int,
    step: int,
    learner_version: int,
) -> list[Sample]:
    """Return the samples of one group: G completions, G scores and G advantages (None: not trained on)."""
    question = group.question
    return [
        Sample(
            step=step,
            question_key=question.key,
            draw=draw,
            question=question.text,
            choices=question.choices,
            answer=question.answer,
            audio=question.audio,
            text=completion.text,
            rewards=dict(sorted(score.rewards.items())),
            reward=score.total if score.valid else None,
            advantage=advantage,
            valid=score.valid,
            error=score.error,
            stop_reason=completion.stop_reason,
            weight_version=group.weight_version,
            learner_version=learner_version,
            worker=group.worker,
        )
        for completion, score, advantage in zip(group.completions, scores, advantages, strict=True)
    ]

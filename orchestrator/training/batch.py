"""From scored groups to training groups: the advantage of each completion, and which ones count in the loss."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from learner.losses.advantages import advantages, is_zero_variance
from learner.messages import BatchCounts
from learner.settings import LearnerSettings
from orchestrator.questions.ledger import Draw
from protocol.reward import Score
from protocol.rollout import Group, StopReason
from protocol.training import TrainingCompletion, TrainingGroup


class Verdict(StrEnum):
    """The use of a group, once it is scored."""

    TRAIN = "train"
    ZERO_VARIANCE = "zero_variance"
    """All rewards are equal, and there is no KL term or dynamic sampling is on: not sent to the learner."""
    UNSCORED = "reward"
    """Fewer than two completions could be scored."""
    TRUNCATED = "truncated"
    """Every completion was truncated, and truncated completions are masked."""


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """A group with its G scores and G advantages (None: that completion could not be scored)."""

    draw: Draw
    group: Group
    scores: tuple[Score, ...]
    advantages: tuple[float | None, ...]
    counted: tuple[bool, ...]
    """For each of the G completions, whether it counts in the mean of the loss: scored, and not masked."""
    verdict: Verdict
    zero_variance: bool

    def training_group(self) -> TrainingGroup:
        """Return the group as the learner takes it, without completions that could not be scored."""
        completions = tuple(
            TrainingCompletion(completion.token_ids, completion.logprobs, advantage, counts)
            for completion, advantage, counts in zip(self.group.completions, self.advantages, self.counted, strict=True)
            if advantage is not None
        )
        group = self.group
        return TrainingGroup(group.question, group.template, group.prompt_token_ids, completions, group.weight_version)


def judge(draw: Draw, group: Group, scores: Sequence[Score], settings: LearnerSettings) -> JudgedGroup:
    """Compute the advantages of a group's valid completions, and decide whether to train on it."""
    loss = settings.loss.choices
    masked = [loss.mask_truncated and c.stop_reason is StopReason.LENGTH for c in group.completions]
    counted = tuple(score.valid and not mask for score, mask in zip(scores, masked, strict=True))
    rewards = [score.total for score in scores if score.valid]
    if len(rewards) < 2:
        nothing = (None,) * len(scores)
        return JudgedGroup(draw, group, tuple(scores), nothing, counted, Verdict.UNSCORED, zero_variance=False)
    by_completion = _spread(advantages(loss.advantage, rewards), scores)
    equal = is_zero_variance(rewards)
    if equal and (settings.beta == 0 or loss.dynamic_sampling):
        verdict = Verdict.ZERO_VARIANCE
    else:
        verdict = Verdict.TRAIN if any(counted) else Verdict.TRUNCATED
    return JudgedGroup(draw, group, tuple(scores), by_completion, counted, verdict, equal)


def batch_counts(judged: Iterable[JudgedGroup], settings: LearnerSettings) -> BatchCounts:
    """Count the completions and tokens that the loss of a batch is divided by.

    Zero-variance groups count although they are not sent to the learner, so that leaving them out does not change the
    update. With dynamic sampling they do not: other questions were drawn instead.
    """
    lengths = [
        len(completion.token_ids)
        for g in judged
        if g.verdict is Verdict.TRAIN
        or (g.verdict is Verdict.ZERO_VARIANCE and not settings.loss.choices.dynamic_sampling)
        for completion, counts in zip(g.group.completions, g.counted, strict=True)
        if counts
    ]
    return BatchCounts(len(lengths), sum(lengths))


def _spread(values: Sequence[float], scores: Sequence[Score]) -> tuple[float | None, ...]:
    """Return one value per score: the next of `values` where the score is valid, else None."""
    following = iter(values)
    return tuple(next(following) if score.valid else None for score in scores)

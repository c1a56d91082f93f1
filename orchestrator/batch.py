"""From scored groups to what the learner trains on: who counts, with which advantage, and why not."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from learner.advantages import group_advantages, is_zero_variance
from orchestrator.ledger import Draw
from protocol.reward import Score
from protocol.rollout import Group
from protocol.training import TrainingCompletion, TrainingGroup


class Verdict(StrEnum):
    """What becomes of a group."""

    TRAIN = "train"
    ZERO_VARIANCE = "zero_variance"
    """All rewards equal and no KL term: nothing to learn, so the learner is spared it."""
    UNSCORED = "reward"
    """Fewer than two of its completions could be scored."""


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """A group with its G scores and G advantages (None: that completion could not be scored)."""

    draw: Draw
    group: Group
    scores: tuple[Score, ...]
    advantages: tuple[float | None, ...]
    verdict: Verdict
    zero_variance: bool

    @property
    def sequences(self) -> int:
        """Completions that count in the loss's mean over sequences."""
        return 0 if self.verdict is Verdict.UNSCORED else sum(score.valid for score in self.scores)

    def training_group(self) -> TrainingGroup:
        """The completions that could be scored, with what the learner needs of them."""
        completions = tuple(
            TrainingCompletion(completion.token_ids, completion.logprobs, advantage)
            for completion, advantage in zip(self.group.completions, self.advantages, strict=True)
            if advantage is not None
        )
        group = self.group
        return TrainingGroup(group.question, group.template, group.prompt_token_ids, completions, group.weight_version)


def judge(draw: Draw, group: Group, scores: Sequence[Score], *, beta: float) -> JudgedGroup:
    """Work out the advantages of a group's valid completions, and whether it is worth training on."""
    rewards = [score.total for score in scores if score.valid]
    if len(rewards) < 2:
        nothing = (None,) * len(scores)
        return JudgedGroup(draw, group, tuple(scores), nothing, Verdict.UNSCORED, zero_variance=False)
    advantages = iter(group_advantages(rewards))
    by_completion = tuple(next(advantages) if score.valid else None for score in scores)
    equal = is_zero_variance(rewards)
    verdict = Verdict.ZERO_VARIANCE if equal and beta == 0 else Verdict.TRAIN
    return JudgedGroup(draw, group, tuple(scores), by_completion, verdict, equal)

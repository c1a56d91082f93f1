"""Rewards of a whole group, which depend on more than the text of one completion, such as the answers of the others.

Invariant: a group reward returns one number per completion, in order, and does not read the question's answer.
"""

import re
from collections.abc import Callable

from audio_qa.answer import extract_answer, means_the_same, split_thinking
from audio_qa.scoring.sampling import majority_vote
from protocol.rollout import Completion, Group
from reward.settings import LengthSettings, LengthUnit, RewardSettings

GroupReward = Callable[[Group], list[float]]
"""(group of G completions) -> G rewards, finite numbers."""

_TAGS = re.compile(r"</?(?:think|answer)>")


def group_rewards(settings: RewardSettings) -> dict[str, GroupReward]:
    """Return the group rewards that the settings name, by name."""
    found: dict[str, GroupReward] = {}
    if "majority" in settings.functions:
        found["majority"] = majority
    length = settings.length
    if length is not None:
        found["length"] = lambda group: [length_reward(completion, length) for completion in group.completions]
    return found


def majority(group: Group) -> list[float]:
    """Return 1.0 for each completion with the group's most frequent answer, else 0.0.

    Zuo et al., 2025, "TTRL: Test-Time Reinforcement Learning" (arXiv 2504.16084): the vote replaces the label. Answers
    that mean the same are one answer (`audio_qa.answer.answer_key`). Among equally frequent answers the first one wins;
    blank answers do not vote and get 0.0.
    """
    answers = [extract_answer(completion.text) for completion in group.completions]
    choices = group.question.choices
    voted = majority_vote(answers, choices)
    return [float(means_the_same(answer, voted, choices)) for answer in answers]


def length_reward(completion: Completion, settings: LengthSettings) -> float:
    """Return 1.0 at the target, decreasing linearly to 0.0 at a distance of `tolerance` on either side.

    After L1-Exact (Aggarwal and Welleck, 2025, arXiv 2503.04697), which subtracts a constant times the distance; here
    the penalty is bounded, so that length cannot outweigh the other rewards.
    """
    return max(0.0, 1.0 - abs(length_of(completion, settings.unit) - settings.target) / settings.tolerance)


def length_of(completion: Completion, unit: LengthUnit) -> int:
    """Return the length of a completion, in tokens or words."""
    match unit:
        case LengthUnit.TOKENS:
            return len(completion.token_ids)
        case LengthUnit.WORDS:
            return len(_TAGS.sub(" ", completion.text).split())
        case LengthUnit.THINKING_WORDS:
            parts = split_thinking(completion.text)
            return 0 if parts is None else len(parts.thinking.split())

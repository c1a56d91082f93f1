"""Compute the advantages of one group from its rewards."""

from collections.abc import Sequence
from enum import StrEnum
from statistics import mean, stdev

EPSILON = 1e-4
"""Added to the standard deviation, as in R1-AQA's code."""


class Advantage(StrEnum):
    """Formula that turns the rewards of a group into advantages."""

    GROUP = "group"
    """(r - mean) / (std + 1e-4), with the sample standard deviation (GRPO)."""
    CENTRED = "centred"
    """r - mean: questions of every difficulty have the same weight (Dr. GRPO)."""
    LEAVE_ONE_OUT = "leave_one_out"
    """r - the mean of the others' rewards (RLOO)."""


def advantages(kind: Advantage, rewards: Sequence[float]) -> tuple[float, ...]:
    """Return the advantages of a group of G rewards. Equal rewards give exactly zero, so they cause no update.

    Raises:
        ValueError: there are fewer than two rewards.
    """
    if len(rewards) < 2:
        raise ValueError(f"a group needs at least 2 rewards, got {len(rewards)}")
    if is_zero_variance(rewards):
        return (0.0,) * len(rewards)
    match kind:
        case Advantage.GROUP:
            return group_advantages(rewards)
        case Advantage.CENTRED:
            return centred_advantages(rewards)
        case Advantage.LEAVE_ONE_OUT:
            return leave_one_out_advantages(rewards)


def group_advantages(rewards: Sequence[float]) -> tuple[float, ...]:
    """Return (r - mean) / (std + 1e-4) with the sample standard deviation, over G - 1.

    Shao et al., 2024, "DeepSeekMath" (arXiv:2402.03300), section 4.1.2; as R1-AQA computes them.
    """
    centre, spread = mean(rewards), stdev(rewards)
    return tuple((r - centre) / (spread + EPSILON) for r in rewards)


def centred_advantages(rewards: Sequence[float]) -> tuple[float, ...]:
    """Return r - mean.

    Liu et al., 2025, "Understanding R1-Zero-Like Training: A Critical Perspective" (arXiv:2503.20783), Dr. GRPO.
    """
    centre = mean(rewards)
    return tuple(r - centre for r in rewards)


def leave_one_out_advantages(rewards: Sequence[float]) -> tuple[float, ...]:
    """Return r - the mean of the G - 1 others, which is G / (G - 1) times the centred advantage.

    Ahmadian et al., 2024, "Back to Basics" (arXiv:2402.14740), RLOO.
    """
    total, others = sum(rewards), len(rewards) - 1
    return tuple(r - (total - r) / others for r in rewards)


def is_zero_variance(rewards: Sequence[float]) -> bool:
    """Return whether all rewards of a group are equal."""
    return all(r == rewards[0] for r in rewards)

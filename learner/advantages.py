"""Group-relative advantages (Shao et al., 2024, DeepSeekMath, section 4.1.2; as R1-AQA computes them)."""

from collections.abc import Sequence
from statistics import mean, stdev

EPSILON = 1e-4
"""Added to the standard deviation, as in the paper's code."""


def group_advantages(rewards: Sequence[float]) -> tuple[float, ...]:
    """(r - mean) / (std + 1e-4) for the G rewards of one group, with the sample standard deviation (G - 1).

    Equal rewards give exactly zero for every completion: nothing is learnt from them.

    Raises:
        ValueError: fewer than two rewards: a group of one has nothing to compare with.
    """
    if len(rewards) < 2:
        raise ValueError(f"a group needs at least 2 rewards, got {len(rewards)}")
    if is_zero_variance(rewards):
        return (0.0,) * len(rewards)
    centre, spread = mean(rewards), stdev(rewards)
    return tuple((r - centre) / (spread + EPSILON) for r in rewards)


def is_zero_variance(rewards: Sequence[float]) -> bool:
    """Whether all rewards of a group are the same number."""
    return all(r == rewards[0] for r in rewards)

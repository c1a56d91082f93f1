"""Confidence intervals of accuracies: the percentile bootstrap (Efron, 1979).

Questions are resampled with replacement. For counts of outcomes this is a multinomial draw, and is computed as one.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """The bounds of a 95 % confidence interval."""

    low: float
    high: float


def accuracy_interval(right: int, wrong: int, skipped: int = 0, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the interval of right / (right + wrong), where some questions are skipped.

    Raises ValueError without right or wrong answers.
    """
    if right + wrong <= 0 or min(right, wrong, skipped) < 0:
        raise ValueError(f"an accuracy needs questions that count, not {right} right and {wrong} wrong")
    total = right + wrong + skipped
    drawn = np.random.default_rng(seed).multinomial(total, np.array([right, wrong, skipped]) / total, resamples)
    counted = drawn[:, 0] + drawn[:, 1]
    # A resample in which every question is skipped has no accuracy.
    return _percentiles(drawn[counted > 0, 0] / counted[counted > 0])


def difference_interval(
    both: int, only_first: int, only_second: int, neither: int, *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Return the interval of accuracy(second) - accuracy(first) on the same questions, resampled in pairs.

    Args:
        both, only_first, only_second, neither: number of questions answered right by both, one or neither.

    Raises ValueError without questions.
    """
    counts = np.array([both, only_first, only_second, neither])
    if counts.sum() <= 0 or counts.min() < 0:
        raise ValueError("a difference needs questions that both were asked")
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), resamples)
    return _percentiles((drawn[:, 2] - drawn[:, 1]) / counts.sum())


def mean_interval(values: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the interval of the mean of values, shape (questions,), with few distinct values, such as pass@k.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("a mean needs values")
    counts = Counter(values)
    shares = np.array(list(counts.values())) / len(values)
    drawn = np.random.default_rng(seed).multinomial(len(values), shares, resamples)
    return _percentiles(drawn @ np.array(list(counts)) / len(values))


def _percentiles(values: np.ndarray) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `count`; 0 to 1 if the count is 0."""
    if count <= 0:
        return 0.0, 1.0
    z2 = 1.96**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = 1.96 * math.sqrt(max(0.0, share * (1 - share)) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, centre - spread), min(1.0, centre + spread)

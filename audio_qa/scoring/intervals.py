"""How far an accuracy on so many questions can be off by chance: the percentile bootstrap (Efron, 1979).

Questions are drawn again with replacement. Of a count of outcomes that is a multinomial draw, so it is drawn as one.
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
    """The bounds of an interval that holds the true value in 95 % of such samples."""

    low: float
    high: float


def accuracy_interval(right: int, wrong: int, skipped: int = 0, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The interval of right / (right + wrong), where some questions are skipped.

    Raises ValueError without a question that counts.
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
    """The interval of accuracy(second) - accuracy(first) on the same questions, resampled in pairs.

    Args:
        both, only_first, only_second, neither: questions by who answered them right.

    Raises ValueError without a question.
    """
    counts = np.array([both, only_first, only_second, neither])
    if counts.sum() <= 0 or counts.min() < 0:
        raise ValueError("a difference needs questions that both were asked")
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), resamples)
    return _percentiles((drawn[:, 2] - drawn[:, 1]) / counts.sum())


def mean_interval(values: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The interval of a mean of values, shape (questions,), of which few differ: pass@k of each question, say.

    Raises ValueError without a value.
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
    """Wilson's 95 % interval of a share of `count`; all of 0 to 1 where nothing was counted."""
    if count <= 0:
        return 0.0, 1.0
    z2 = 1.96**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = 1.96 * math.sqrt(max(0.0, share * (1 - share)) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, centre - spread), min(1.0, centre + spread)

"""Paired comparison of two results on the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from audio_qa.scoring.intervals import RESAMPLES, Interval, difference_interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results on the same questions."""

    questions: int
    first_accuracy: float
    second_accuracy: float
    difference: float
    """Second accuracy minus first."""
    interval: Interval
    """Interval of the difference, by a paired bootstrap."""
    only_first: int
    """Number of questions that only the first answered right."""
    only_second: int
    p_value: float
    """p-value of McNemar's exact test: the probability of a difference this large if neither were better."""


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar, 1947): a fair coin for each difference."""
    if min(only_first, only_second) < 0:
        raise ValueError(f"counts must not be negative: {only_first} and {only_second}")
    differing = only_first + only_second
    tail = sum(comb(differing, i) for i in range(min(only_first, only_second) + 1))
    # Integers until here: 2**differing overflows a float for a few thousand differences.
    return float(min(Fraction(1), Fraction(2 * tail, 2**differing)))


def compare(first: Sequence[bool], second: Sequence[bool], *, seed: int, resamples: int = RESAMPLES) -> Comparison:
    """Compare two results: whether each question was answered right, shape (questions,), in the same order.

    Raises ValueError for different lengths, or without questions.
    """
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        raise ValueError("a comparison needs questions that both were asked")
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    n = len(pairs)
    return Comparison(
        questions=n,
        first_accuracy=(both + only_first) / n,
        second_accuracy=(both + only_second) / n,
        difference=(only_second - only_first) / n,
        interval=difference_interval(both, only_first, only_second, neither, seed=seed, resamples=resamples),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar_exact(only_first, only_second),
    )

"""Scores of several sampled answers: majority vote and pass@k."""

from collections import Counter
from collections.abc import Sequence
from math import comb


def majority_vote(answers: Sequence[str]) -> str:
    """Return the most frequent answer, without surrounding white space; of several, the one that came first.

    Self-consistency (Wang et al., 2022). Blank answers do not vote; if all are blank the result is empty. Raises
    ValueError without answers.
    """
    if not answers:
        raise ValueError("a vote needs answers")
    votes = Counter(stripped for answer in answers if (stripped := answer.strip()))
    # most_common keeps the order of first occurrence for equal counts.
    return votes.most_common(1)[0][0] if votes else ""


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the unbiased estimate of the probability that at least one of k samples is right.

    It is 1 - C(n - c, k) / C(n, k) (Chen et al., 2021, section 2.1).

    Args:
        samples: number of samples, n.
        right: number of right samples, c.
        k: at most n.

    Raises ValueError for numbers that do not fit.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples, {right} right: needs 1 <= k <= samples >= right >= 0")
    return 1 - comb(samples - right, k) / comb(samples, k)

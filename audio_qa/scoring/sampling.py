"""What several samples of an answer are worth together."""

from collections import Counter
from collections.abc import Sequence
from math import comb


def majority_vote(answers: Sequence[str]) -> str:
    """The most frequent answer, white space around it aside; of several such, the one that came first.

    Self-consistency (Wang et al., 2022). Blank answers do not vote; where all are blank the result is empty. Raises
    ValueError without answers.
    """
    if not answers:
        raise ValueError("a vote needs answers")
    votes = Counter(stripped for answer in answers if (stripped := answer.strip()))
    # Equal counts come in the order in which they were first seen.
    return votes.most_common(1)[0][0] if votes else ""


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The probability that at least one of k samples is right, estimated without bias (Chen et al., 2021, section 2.1).

    Args:
        samples: how many were drawn, n.
        right: how many of them are right, c.
        k: at most n.

    Returns 1 - C(n - c, k) / C(n, k). Raises ValueError for numbers that do not fit.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples, {right} right: needs 1 <= k <= samples >= right >= 0")
    return 1 - comb(samples - right, k) / comb(samples, k)

"""Scores of several sampled answers: majority vote and pass@k."""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from math import comb

from audio_qa.answer import answer_key, normal_form


def majority_vote(answers: Sequence[str], choices: Sequence[str] = ()) -> str:
    """Return the most frequent answer, without surrounding white space; of several, the one that came first.

    Self-consistency (Wang et al., 2022). Answers that mean the same are one answer, also in different notations
    (`audio_qa.answer.answer_key`); if any of them is verbatim one of `choices`, that notation is returned, else the
    first. Blank answers do not vote; if all are blank the result is empty. Raises ValueError without answers.
    """
    if not answers:
        raise ValueError("a vote needs answers")
    votes: dict[str | Fraction, list[str]] = defaultdict(list)
    for answer in map(str.strip, answers):
        if answer:
            votes[answer_key(answer, choices)].append(answer)
    if not votes:
        return ""
    # max returns the first of equals, and the dict keeps the order of first occurrence.
    elected = max(votes.values(), key=len)
    named = set(map(normal_form, choices))
    return next((answer for answer in elected if normal_form(answer) in named), elected[0])


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

"""The choice that a free answer is nearest to, by its letters: what stands in for a comparison of embeddings."""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

_WORD = re.compile(r"\w+")


def nearest_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice an answer is, letter by letter, else the one with the largest cosine similarity to it.

    Compared are the counts of three letters in a row within lower-case words, the ends of a word counted as letters, so
    that "dogs" is near to "dog". Of several nearest it is the first, as an argmax takes it; None where nothing is
    shared with any.
    """
    answer = answer.strip()
    for choice in choices:
        if choice.strip() == answer:
            return choice
    said = _trigrams(answer)
    # The squares of the cosines, less what all have in common: exact, so that equal ones are equal on every machine.
    likeness = [_likeness(said, _trigrams(choice)) for choice in choices]
    best = max(likeness)
    return choices[likeness.index(best)] if best else None


def _trigrams(text: str) -> Counter[str]:
    words = (f" {word} " for word in _WORD.findall(text.lower()))
    return Counter(word[i : i + 3] for word in words for i in range(len(word) - 2))


def _likeness(said: Counter[str], choice: Counter[str]) -> Fraction:
    shared = sum(count * choice[trigram] for trigram, count in said.items())
    return Fraction(shared**2, sum(count**2 for count in choice.values()) or 1)

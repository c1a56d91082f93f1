"""The choice most similar to a free answer, by its letters: a stand-in for a comparison of embeddings."""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from audio_qa.answer import nfc, normal_form

_WORD = re.compile(r"\w+")


def nearest_choice(answer: str, choices: Sequence[str]) -> str | None:
    """Return the choice that equals the answer, else the one with the largest cosine similarity to it.

    The similarity compares counts of trigrams within lower-case words, with the ends of a word counted as letters, so
    that "dogs" is near "dog". Of several equally near choices the first one is returned, as by an argmax; None if the
    answer shares no trigram with any choice.
    """
    answer = normal_form(answer)
    for choice in choices:
        if normal_form(choice) == answer:
            return choice
    of_answer = _trigrams(answer)
    # Squared cosines without their common factor, as exact fractions: ties are the same on every machine.
    likeness = [_likeness(of_answer, _trigrams(choice)) for choice in choices]
    best = max(likeness)
    return choices[likeness.index(best)] if best else None


def _trigrams(text: str) -> Counter[str]:
    words = (f" {word} " for word in _WORD.findall(nfc(text).lower()))
    return Counter(word[i : i + 3] for word in words for i in range(len(word) - 2))


def _likeness(answer: Counter[str], choice: Counter[str]) -> Fraction:
    shared = sum(count * choice[trigram] for trigram, count in answer.items())
    return Fraction(shared**2, sum(count**2 for count in choice.values()) or 1)

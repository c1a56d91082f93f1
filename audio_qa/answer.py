"""The answer of a completion, and its judgement: the paper's rewards (arXiv 2503.11197, code R1-AQA), MMAU's rule.

Every reward, figure and vote takes the answer from `extract_answer`, whatever format the completion has:

- Thinking is `<think>` to the next `</think>`, possibly several times; a `<think>` within it is part of it. A
  `</think>` without its `<think>` ends thinking too, which began with the text or with the thinking before, unless
  nothing follows. A last `<think>` without `</think>` was truncated: all that follows is thinking.
- The answer is in the text after the first thinking, without later thinking, or before it if nothing follows.
- It is the first complete `<answer>…</answer>` there, from its innermost `<answer>`; without one, the whole of it.

Texts are compared in Unicode's normal form C and without surrounding white space: tokenizers normalise, question files
may not. Other differences count, as case or non-breaking spaces, which tokenizers keep.

Models write the texts, which may be hostile by chance, so every function takes time linear in the length of the text.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question

_OPEN, _CLOSE = "<answer>", "</answer>"
_THINK = "<think>"
_THINK_TAG = re.compile(r"(</?think>)")
_THINK_TO_ANSWER = re.compile(r"</think>\s*<answer>")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+|[0-9]+/[0-9]+)")
_WORD = re.compile(r"\b\w+\b")
# Converting digits to a number takes time quadratic in their count; no option of a question is a longer number.
_LONGEST_NUMBER = 64
# Normalising takes time quadratic in the length of a run of combining characters. Longer runs are not text: they are
# outside of Unicode's stream-safe format (UAX 15).
_LONGEST_RUN = 30


class Thinking(NamedTuple):
    """The parts of a completion that thinks."""

    thinking: str
    """All its thinking, each part on lines of its own."""
    rest: str
    """Text after the first thinking, without later thinking."""


def extract_answer(text: str) -> str:
    """Return the answer of a completion, stripped: see the module. It may have line breaks."""
    before, _, after = _parts(text)
    rest = after if after.strip() else before
    start = rest.find(_OPEN)
    # If no closing tag follows the first opening tag, none follows a later one.
    end = rest.find(_CLOSE, start + len(_OPEN)) if start >= 0 else -1
    return (rest[rest.rfind(_OPEN, start, end) + len(_OPEN) : end] if end >= 0 else rest).strip()


def split_thinking(text: str) -> Thinking | None:
    """Return the thinking of a completion, and the text after it; None without complete thinking."""
    _, thinking, after = _parts(text)
    return Thinking("\n".join(thinking), after) if thinking else None


def _parts(text: str) -> tuple[str, list[str], str]:
    """Return the text before the first thinking, every complete thinking, and the text after the first one."""
    before, *rest = _THINK_TAG.split(text)
    thinking: list[str] = []
    after: list[str] = []
    inside: list[str] | None = None
    for tag, said in zip(rest[::2], rest[1::2], strict=True):
        if tag == _THINK and inside is None:
            inside = [said]
        elif tag == _THINK and inside is not None:
            inside.append(said)
        elif inside is not None:
            thinking.append("".join(inside))
            after.append(said)
            inside = None
        elif said.strip():  # a </think> without its <think>
            if thinking:
                thinking += after
            else:
                thinking, before = [before], ""
            after = [said]
    return before, thinking, "".join(after)


def format_ok(text: str, template: PromptTemplate) -> bool:
    """Return whether the whole completion has the format that its prompt requests.

    The format is `<answer>…</answer>`, for THINK `<think>…</think>`, white space and `<answer>…</answer>`, with nothing
    before or after. As in R1-AQA's `re.fullmatch`, the content is arbitrary and may have further tags. PLAIN requests
    no format: always true.
    """
    if template is PromptTemplate.PLAIN:
        return True
    if not text.endswith(_CLOSE):
        return False
    body = text[: -len(_CLOSE)]
    if template is PromptTemplate.ANSWER:
        return body.startswith(_OPEN)
    return body.startswith(_THINK) and _THINK_TO_ANSWER.search(body, len(_THINK)) is not None


def normal_form(text: str) -> str:
    """Return a text as texts are compared: in Unicode's normal form C, stripped."""
    return nfc(text).strip()


def nfc(text: str) -> str:
    """Return a text in Unicode's normal form C; unchanged if it has a run of more than 30 combining characters."""
    if text.isascii():
        return text
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > _LONGEST_RUN:
            return text
    return unicodedata.normalize("NFC", text)


def is_correct(prediction_text: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """Return whether the extracted answer is the solution: the paper's accuracy. See `means_the_same`.

    Args:
        choices: all choices of the question; without them every number of the solution's value is right.
    """
    return means_the_same(extract_answer(prediction_text), answer, choices)


def means_the_same(said: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """Return whether an answer without its tags equals the solution, as text or as a number.

    The text comparison is case-sensitive. An answer that is another choice, letter by letter, is wrong. Numbers are
    compared by value (`2.0` is `2`, `1/2` is `0.5`), if the whole answer is one plain number. R1-AQA uses a symbolic
    parser instead, which extracts numbers from running text (so that "two cars, 3 dogs" could equal "3") and has
    unbounded run time; the options of audio questions are words or plain numbers, for which both agree. A blank
    solution is not known, and nothing equals it.
    """
    said, answer = normal_form(said), normal_form(answer)
    if not answer or said == answer:
        return bool(answer)
    value = _number(said)
    return value is not None and value == _number(answer) and said not in map(normal_form, choices)


def chance(question: Question) -> float:
    """Return the probability that a choice drawn at random is right."""
    right = sum(means_the_same(choice, question.answer, question.choices) for choice in question.choices)
    return right / len(question.choices)


def answer_key(said: str, choices: Sequence[str] = ()) -> str | Fraction:
    """Return a value that is the same for answers that mean the same, and for no others.

    It is the choice that the answer is, letter by letter, or the only one of its value as a number; else the value, or
    the answer itself.
    """
    said = normal_form(said)
    value = _number(said)
    named = set(map(normal_form, choices))
    if value is None or said in named:
        return said
    equal = [choice for choice in named if _number(choice) == value]
    return equal[0] if len(equal) == 1 else value


def _number(text: str) -> Fraction | None:
    """Return the value of a text that is one plain number: `2`, `-2.50`, `.5`, `1/2`."""
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.partition("/")
    if not denominator:
        return Fraction(text)
    return Fraction(int(numerator), int(denominator)) if int(denominator) else None


def _tokens(text: str) -> set[str]:
    return set(_WORD.findall(nfc(text).lower()))


def mmau_correct(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """Return whether a prediction is right by MMAU's official string match (its `evaluation.py`; MMAR uses the same).

    It compares lower-case word sets: a prediction is right if it has every word of the answer and no word that only
    wrong choices have. An empty prediction is wrong. `prediction` is the bare answer, without its tags.
    """
    predicted, right = _tokens(prediction), _tokens(answer)
    only_wrong = {token for choice in choices for token in _tokens(choice)} - right
    return bool(predicted) and right <= predicted and predicted.isdisjoint(only_wrong)

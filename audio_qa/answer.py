"""Judgement of answers: the paper's rewards (arXiv 2503.11197, code R1-AQA) and MMAU's official string match.

Models write the texts, which may be hostile by chance, so every function takes time linear in the length of the text.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from audio_qa.prompt import PromptTemplate

_OPEN, _CLOSE = "<answer>", "</answer>"
_THINK, _THINK_END = "<think>", "</think>"
_THINK_TO_ANSWER = re.compile(r"</think>\s*<answer>")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+|[0-9]+/[0-9]+)")
_WORD = re.compile(r"\b\w+\b")
# Converting digits to a number takes time quadratic in their count; no option of a question is a longer number.
_LONGEST_NUMBER = 64


def extract_answer(text: str) -> str:
    """Return the content of the first `<answer>…</answer>`, else the whole text; stripped. It may have line breaks."""
    start = text.find(_OPEN)
    # If no closing tag follows the first opening tag, none follows a later one.
    end = text.find(_CLOSE, start + len(_OPEN)) if start >= 0 else -1
    return (text[start + len(_OPEN) : end] if end >= 0 else text).strip()


def split_thinking(text: str) -> tuple[str, str] | None:
    """Return the content of the first `<think>…</think>` and the text after it; None without such a part."""
    start = text.find(_THINK)
    end = text.find(_THINK_END, start + len(_THINK)) if start >= 0 else -1
    return (text[start + len(_THINK) : end], text[end + len(_THINK_END) :]) if end >= 0 else None


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


def _number(text: str) -> Fraction | None:
    """Return the value of a text that is one plain number: `2`, `-2.50`, `.5`, `1/2`."""
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.partition("/")
    if not denominator:
        return Fraction(text)
    return Fraction(int(numerator), int(denominator)) if int(denominator) else None


def is_correct(prediction_text: str, answer: str) -> bool:
    """Return whether the extracted answer equals the solution, as a number or as text: the paper's accuracy.

    The text comparison is case-sensitive. Numbers are compared by value first (`2.0` is `2`, `1/2` is `0.5`), and only
    if the whole answer is one plain number. R1-AQA uses a symbolic parser instead, which extracts numbers from running
    text (so that "two cars, 3 dogs" could equal "3") and has unbounded run time; the options of audio questions are
    words or plain numbers, for which both agree.
    """
    prediction, solution = extract_answer(prediction_text), answer.strip()
    value = _number(prediction)
    return (value is not None and value == _number(solution)) or prediction == solution


def _tokens(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def mmau_correct(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """Return whether a prediction is right by MMAU's official string match (its `evaluation.py`; MMAR uses the same).

    It compares lower-case word sets: a prediction is right if it has every word of the answer and no word that only
    wrong choices have. An empty prediction is wrong. `prediction` is the bare answer, without its tags.
    """
    predicted, right = _tokens(prediction), _tokens(answer)
    only_wrong = {token for choice in choices for token in _tokens(choice)} - right
    return bool(predicted) and right <= predicted and predicted.isdisjoint(only_wrong)

"""How an answer is judged: the paper's rewards (arXiv 2503.11197, code R1-AQA) and MMAU's official string match.

What is judged was written by a model and may be hostile by chance, so every function takes time linear in the text.
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
    """What stands in the first `<answer>…</answer>`, else the whole text; stripped. Line breaks are allowed inside."""
    start = text.find(_OPEN)
    # When no end follows the first opening tag, none follows a later one.
    end = text.find(_CLOSE, start + len(_OPEN)) if start >= 0 else -1
    return (text[start + len(_OPEN) : end] if end >= 0 else text).strip()


def split_thinking(text: str) -> tuple[str, str] | None:
    """What stands in the first `<think>…</think>`, and what follows it; None where there is no such thing."""
    start = text.find(_THINK)
    end = text.find(_THINK_END, start + len(_THINK)) if start >= 0 else -1
    return (text[start + len(_THINK) : end], text[end + len(_THINK_END) :]) if end >= 0 else None


def format_ok(text: str, template: PromptTemplate) -> bool:
    """Whether the whole completion has the form its prompt asked for.

    `<answer>…</answer>`, and for THINK `<think>…</think>` with only white space before `<answer>…</answer>`; nothing
    before or after. As in R1-AQA's `re.fullmatch`, what stands inside is free, further tags included. PLAIN asks for
    no form: always true.
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
    """The value of a text that is one plain number: `2`, `-2.50`, `.5`, `1/2`."""
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.partition("/")
    if not denominator:
        return Fraction(text)
    return Fraction(int(numerator), int(denominator)) if int(denominator) else None


def is_correct(prediction_text: str, answer: str) -> bool:
    """The paper's accuracy: the extracted answer equals the solution, as a number or else letter by letter.

    The text comparison is case-sensitive. Numbers are compared by value first (`2.0` is `2`, `1/2` is `0.5`), and
    only where the whole answer is one plain number. R1-AQA asks a symbolic parser instead, which picks numbers out
    of running text (so that "two cars, 3 dogs" could equal "3") and whose run time has no bound; the options of
    audio questions are words or plain numbers, where both agree.
    """
    prediction, solution = extract_answer(prediction_text), answer.strip()
    value = _number(prediction)
    return (value is not None and value == _number(solution)) or prediction == solution


def _tokens(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def mmau_correct(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """MMAU's official string match (its `evaluation.py`; MMAR uses the same).

    On lower-case word sets: right if the prediction has every word of the answer and no word that only wrong choices
    have. An empty prediction is wrong. `prediction` is the bare answer: take it out of its tags first.
    """
    predicted, right = _tokens(prediction), _tokens(answer)
    only_wrong = {token for choice in choices for token in _tokens(choice)} - right
    return bool(predicted) and right <= predicted and predicted.isdisjoint(only_wrong)

"""The rules by which benchmarks count a prediction as right.

A rule judges the prediction verbatim, as it is submitted, and returns None if the benchmark's script would leave the
item out of its figure. Earshot's stricter rule, reported beside every official one, is `strictly_right`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from audio_qa.answer import extract_answer, is_correct, mmau_correct
from audio_qa.question import Question
from audio_qa.scoring.nearest import nearest_choice

_LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Rule:
    """The scoring rule of a benchmark."""

    name: str
    source: str
    """Source of the rule, for display."""
    official: Callable[[str | None, Question], bool | None]
    """Judges a prediction (None: missing) as right or wrong; None if the official figure skips it."""
    prediction: Callable[[str, Question], str]
    """Turns a completion into the prediction to submit."""
    keys: tuple[str, ...]
    """Keys of the predictions in the benchmark's files; the first one present is read."""
    ending: str = ""
    """Suffix of the file that the benchmark's script reads; empty for the suffix of the question file."""
    missing: str | None = None
    """Value for a question without a prediction; None leaves the key out."""
    is_official: bool = True
    """False for a stand-in for a rule that cannot be computed here."""


def strictly_right(prediction: str | None, question: Question) -> bool:
    """Return whether the answer, without its tags, is verbatim the right choice: Earshot's stricter rule.

    It ignores surrounding white space, and skips no question. A missing prediction is wrong.
    """
    return prediction is not None and extract_answer(prediction) == question.answer.strip()


def _string_match(prediction: str | None, question: Question) -> bool | None:
    return None if prediction is None else mmau_correct(prediction, question.answer, question.choices)


def _single_choice(prediction: str | None, question: Question) -> bool | None:
    """Judge a response by AIR-Bench's rule: the letter it begins with, else the letter before its last character.

    The second case is for "The answer is A." A response with neither is left out of the official figure. A response
    that begins with a capital A to D, such as "Cat", is read as that letter, since the benchmark converts responses to
    letters first.
    """
    text = "" if prediction is None else prediction.strip().replace("\n", "")
    if text in ("", "None"):
        return None
    letter = text[0] if text[0] in _LETTERS else text[-2:-1]
    if not letter or letter not in _LETTERS:
        return None
    return letter == _LETTERS[question.choices.index(question.answer)]


def _letter(completion: str, question: Question) -> str:
    """Return the letter of the choice that a completion names verbatim, else the answer itself."""
    answer = extract_answer(completion)
    choices = [choice.strip() for choice in question.choices]
    return _LETTERS[choices.index(answer)] if answer in choices else answer


def _nearest(prediction: str | None, question: Question) -> bool:
    """Return whether the choice nearest to a prediction is the right one; a missing prediction counts as empty text.

    The official rule replaces every response by the nearest choice, and skips none.
    """
    return nearest_choice(prediction or "", question.choices) == question.answer


def _paper(prediction: str | None, question: Question) -> bool:
    return prediction is not None and is_correct(prediction, question.answer)


def _bare(completion: str, _: Question) -> str:
    return extract_answer(completion)


_MMAU_SCRIPT = "string match of github.com/Sakshi113/MMAU, evaluation.py; items without a prediction are skipped"

RULES: dict[str, Rule] = {
    # The script reads model_output, its documentation says model_prediction: both are written.
    "mmau": Rule("mmau", _MMAU_SCRIPT, _string_match, _bare, ("model_prediction", "model_output"), ".json"),
    # The script read model_prediction until February 2026, and answer_prediction from then on: both are written.
    "mmar": Rule(
        "mmar",
        "string match of github.com/ddlBoJack/MMAR, code/evaluation.py, which is MMAU's",
        _string_match,
        _bare,
        ("answer_prediction", "model_prediction"),
    ),
    "air_bench": Rule(
        "air_bench",
        "single choice of github.com/OFA-Sys/AIR-Bench, score_foundation.py; responses without a letter are skipped",
        _single_choice,
        _letter,
        ("response",),
        ending=".jsonl",
        missing="None",
    ),
    "mmau_pro": Rule(
        "mmau_pro",
        "stand-in: the choice nearest to the prediction by letters. github.com/sonalkum/MMAUPro takes the nearest by "
        "embeddings of NV-Embed-v2, a model of 7 billion parameters; both agree where the prediction is a choice",
        _nearest,
        _bare,
        ("model_output",),
        ending=".parquet",
        is_official=False,
    ),
}
"""Rules by format of the question file."""

PAPER = Rule(
    "paper",
    "accuracy of arXiv 2503.11197: the answer equals the right choice, numbers by value",
    _paper,
    _bare,
    ("model_prediction",),
)
"""The rule for question files without a rule of their own."""


def rule_of(format: str) -> Rule:
    """Return the rule for question files of a format."""
    return RULES.get(format, PAPER)

"""When a benchmark counts a prediction as right.

A rule judges the prediction as it is handed in, letter by letter, and says None where the benchmark's own script would
leave the item out of its figure. Our stricter count, beside every official one, is `strictly_right`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from audio_qa.answer import extract_answer, is_correct, mmau_correct
from audio_qa.question import Question
from audio_qa.scoring.nearest import nearest_choice

_LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Rule:
    """How a benchmark scores."""

    name: str
    source: str
    """Where the rule is from; for people."""
    official: Callable[[str | None, Question], bool | None]
    """Whether a prediction is right; None where the official figure skips it. A prediction of None is missing."""
    prediction: Callable[[str, Question], str]
    """What is handed in for a completion."""
    keys: tuple[str, ...]
    """The keys under which the benchmark's files hold predictions; the first is read."""
    ending: str = ""
    """Of the file that the benchmark's script reads; empty where that is the question file's own."""
    missing: str | None = None
    """What is handed in for a question without a prediction; None leaves the key out."""
    is_official: bool = True
    """False for a stand-in of a rule that cannot be computed here."""


def strictly_right(prediction: str | None, question: Question) -> bool:
    """Our count: the answer, taken out of its tags, is the right choice, letter by letter; nothing is left out.

    White space around either does not count. A missing prediction is wrong.
    """
    return prediction is not None and extract_answer(prediction) == question.answer.strip()


def _string_match(prediction: str | None, question: Question) -> bool | None:
    return None if prediction is None else mmau_correct(prediction, question.answer, question.choices)


def _single_choice(prediction: str | None, question: Question) -> bool | None:
    """AIR-Bench's reading of a response: the letter it begins with, else the letter before its last character.

    The second is for "The answer is A." Whatever has neither is left out of the official figure. A response that begins
    with a capital A to D, such as "Cat", is read as that letter: the benchmark has responses turned into letters first.
    """
    text = "" if prediction is None else prediction.strip().replace("\n", "")
    if text in ("", "None"):
        return None
    letter = text[0] if text[0] in _LETTERS else text[-2:-1]
    if not letter or letter not in _LETTERS:
        return None
    return letter == _LETTERS[question.choices.index(question.answer)]


def _letter(completion: str, question: Question) -> str:
    """The letter of the choice that a completion names word for word, else the answer as it is."""
    answer = extract_answer(completion)
    choices = [choice.strip() for choice in question.choices]
    return _LETTERS[choices.index(answer)] if answer in choices else answer


def _nearest(prediction: str | None, question: Question) -> bool:
    """Whether the choice that is nearest to a prediction is the right one; a missing one is an empty text.

    The official rule takes every response for the choice that is nearest to it, and skips none.
    """
    return nearest_choice(prediction or "", question.choices) == question.answer


def _paper(prediction: str | None, question: Question) -> bool:
    return prediction is not None and is_correct(prediction, question.answer)


def _bare(completion: str, _: Question) -> str:
    return extract_answer(completion)


_MMAU_SCRIPT = "string match of github.com/Sakshi113/MMAU, evaluation.py; items without a prediction are skipped"

RULES: dict[str, Rule] = {
    # The script at hand reads model_output, the page that explains it says model_prediction: both are written.
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
"""By format of the question file."""

PAPER = Rule(
    "paper",
    "accuracy of arXiv 2503.11197: the answer equals the right choice, numbers by value",
    _paper,
    _bare,
    ("model_prediction",),
)
"""For question files that have no rule of their own."""


def rule_of(format: str) -> Rule:
    """The rule for question files of a format."""
    return RULES.get(format, PAPER)

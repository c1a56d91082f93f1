"""The rules by which benchmarks count a prediction as right.

An official rule judges the prediction verbatim, as it is submitted, and returns None if the benchmark's script would
leave the item out of its figure. Every other count works on the answer that the prediction means (`Rule.meant`):
Earshot's stricter rule, `strictly_right`, which is reported beside every official one, and votes.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audio_qa.answer import extract_answer, is_correct, mmau_correct, normal_form
from audio_qa.question import Question
from audio_qa.scoring.nearest import nearest_choice
from audio_qa.scoring.sampling import majority_vote

_LETTERS = "ABCD"
_LETTERED = re.compile(r"[(\[]?([A-D])([)\].:]*)\s*(.*)", re.DOTALL)
"""A letter, marks such as ")", and the rest."""


def _answer(prediction: str, _: Question) -> str:
    return extract_answer(prediction)


def _own_spelling(answer: str, question: Question) -> str:
    """Return an answer as the question file spells it, since scripts compare without a normal form."""
    place = _verbatim(answer, question.choices)
    return answer if place is None else question.choices[place].strip()


@dataclass(frozen=True, slots=True)
class Rule:
    """The scoring rule of a benchmark."""

    name: str
    source: str
    """Source of the rule, for display."""
    official: Callable[[str | None, Question], bool | None]
    """Judges a prediction (None: missing) as right or wrong; None if the official figure skips it."""
    keys: tuple[str, ...]
    """Keys of the predictions in the benchmark's files, the one that its script reads first."""
    ending: str = ""
    """Suffix of the file that the benchmark's script reads; empty for the suffix of the question file."""
    missing: str | None = None
    """Value for a question without a prediction; None leaves the key out."""
    by_letter: bool = False
    """True if predictions are letters, which count the choices in the order of the file."""
    is_official: bool = True
    """False for a stand-in for a rule that cannot be computed here."""
    submitted: Callable[[str, Question], str] = _own_spelling
    """Turns an answer into the prediction to submit."""
    meant: Callable[[str, Question], str] = _answer
    """Turns a prediction into the answer that it means: the inverse of `submitted`, also for the other notations of
    predictions that were handed in."""

    def prediction(self, completion: str, question: Question) -> str:
        """Return the prediction to submit for a completion."""
        return self.submitted(extract_answer(completion), question)

    def voted(self, completions: Sequence[str], question: Question) -> str:
        """Return the prediction to submit for several completions: that of the answer that most of them mean."""
        predictions = [self.prediction(completion, question) for completion in completions]
        if len(predictions) == 1:
            return predictions[0]
        meant = [self.meant(prediction, question) for prediction in predictions]
        return self.submitted(majority_vote(meant, question.choices), question)


def strictly_right(answer: str | None, question: Question) -> bool:
    """Return whether an answer, without its tags, is verbatim the right choice: Earshot's stricter rule.

    It ignores surrounding white space, and skips no question. A missing answer is wrong.
    """
    return answer is not None and normal_form(extract_answer(answer)) == normal_form(question.answer)


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


def _letter(answer: str, question: Question) -> str:
    """Return the letter of the choice that an answer is, or names by a letter; else the answer itself."""
    place = _verbatim(answer, question.choices)
    if place is None:
        place = _lettered(answer, question.choices)
    return answer if place is None else _LETTERS[place]


def _choice(prediction: str, question: Question) -> str:
    """Return the choice that a response names: by "B", "(B)", "B." or "B. a dog", or verbatim; else the answer itself.

    As in the benchmark's script, letters are capitals. They come first: "A" is the first choice, also where another one
    is the text "A".
    """
    answer = extract_answer(prediction)
    place = _lettered(answer, question.choices)
    if place is None:
        place = _verbatim(answer, question.choices)
    return answer if place is None else question.choices[place]


def _verbatim(answer: str, choices: Sequence[str]) -> int | None:
    """Return the place of the first choice that equals an answer."""
    answer = normal_form(answer)
    return next((place for place, choice in enumerate(choices) if normal_form(choice) == answer), None)


def _lettered(answer: str, choices: Sequence[str]) -> int | None:
    """Return the place of the choice that an answer names by its letter, alone or before the choice's own text."""
    found = _LETTERED.fullmatch(normal_form(answer))
    place = -1 if found is None else _LETTERS.index(found[1])
    if found is None or place >= len(choices):
        return None
    named = not found[3] or (found[2] and found[3] == normal_form(choices[place]))
    return place if named else None


def _nearest(prediction: str | None, question: Question) -> bool:
    """Return whether the choice nearest to a prediction is the right one; a missing prediction counts as empty text.

    The official rule replaces every response by the nearest choice, and skips none.
    """
    nearest = nearest_choice(prediction or "", question.choices)
    return nearest is not None and normal_form(nearest) == normal_form(question.answer)


def _paper(prediction: str | None, question: Question) -> bool:
    return prediction is not None and is_correct(prediction, question.answer, question.choices)


_MMAU_SCRIPT = "string match of github.com/Sakshi113/MMAU, evaluation.py; items without a prediction are skipped"

RULES: dict[str, Rule] = {
    # The script reads model_output, its documentation says model_prediction: both are written.
    "mmau": Rule("mmau", _MMAU_SCRIPT, _string_match, ("model_output", "model_prediction"), ".json"),
    # The script read model_prediction until February 2026, and answer_prediction from then on: both are written.
    "mmar": Rule(
        "mmar",
        "string match of github.com/ddlBoJack/MMAR, code/evaluation.py, which is MMAU's",
        _string_match,
        ("answer_prediction", "model_prediction"),
    ),
    "air_bench": Rule(
        "air_bench",
        "single choice of github.com/OFA-Sys/AIR-Bench, score_foundation.py; responses without a letter are skipped",
        _single_choice,
        ("response",),
        ending=".jsonl",
        missing="None",
        by_letter=True,
        submitted=_letter,
        meant=_choice,
    ),
    "mmau_pro": Rule(
        "mmau_pro",
        "stand-in: the choice nearest to the prediction by letters. github.com/sonalkum/MMAUPro takes the nearest by "
        "embeddings of NV-Embed-v2, a model of 7 billion parameters; both agree where the prediction is a choice",
        _nearest,
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
    ("model_prediction",),
)
"""The rule for question files without a rule of their own."""


def rule_of(format: str) -> Rule:
    """Return the rule for question files of a format."""
    return RULES.get(format, PAPER)

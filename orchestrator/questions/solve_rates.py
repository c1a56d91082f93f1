"""Solve rates measured before a job, from a run's samples or an evaluation with several answers per question."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from audio_qa.answer import is_correct
from audio_qa.errors import shown
from audio_qa.question import Question
from orchestrator.job.spec_file import SpecError

_KEY = "data.curriculum.measured"
_FORMS = "name a run's samples.jsonl, or what `earshot evaluate --samples K --temperature 1 --json` printed"


class SolveRate(NamedTuple):
    """The solve rate of a question, as weighted counts: recent completions count more."""

    correct: float
    """Weighted number of correct completions."""
    total: float
    """Weighted number of completions."""

    @property
    def share(self) -> float:
        """Share of correct completions; 1/2 if there are none."""
        return self.correct / self.total if self.total else 0.5

    def followed_by(self, correct: int, total: int) -> "SolveRate":
        """Return the rate after one more group, which halves the weight of all earlier ones."""
        return SolveRate(self.correct / 2 + correct, self.total / 2 + total)


def measured_rates(path: str, questions: Sequence[Question]) -> dict[str, SolveRate]:
    """Return the solve rates in a file by question key, for those of the questions that it contains.

    Raises SpecError if the file does not exist, has neither of the two forms, or has other questions under the same
    keys, or if it has none of the questions.
    """
    check_measured(path)
    correct, total = Counter[str](), Counter[str]()
    try:
        with Path(path).open(encoding="utf-8") as file:
            first = json.loads(file.readline())
            if "question_key" in first:
                file.seek(0)
                known = {question.key: question for question in questions}
                for line in file:
                    _count_sample(json.loads(line), known, path, correct, total)
            else:
                if first.get("labelled") is False:
                    raise SpecError(
                        f"{_KEY}: {path!r} is about questions without answers: nothing in it is solved; {_FORMS}"
                    )
                by_id = {question.id: question for question in questions}
                for answer in first["answers"]:
                    _count_answer(answer, by_id, path, correct, total)
    except OSError as error:
        raise SpecError(f"{_KEY}: {shown(path)} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, SpecError):
            raise
        problem = f"has no answers to measure by ({type(error).__name__})"
        raise SpecError(f"{_KEY}: {shown(path)} {problem}; {_FORMS}") from error
    if not total:
        raise SpecError(
            f"{_KEY}: {shown(path)} has none of these training questions; measure them, or name another file"
        )
    return {key: SolveRate(correct[key], count) for key, count in total.items()}


def check_measured(path: str) -> None:
    """Raise SpecError if there is no such file."""
    if not Path(path).is_file():
        raise SpecError(f"{_KEY}: {shown(path)} is not a file; {_FORMS}")


def _count_sample(
    sample: dict[str, Any], known: dict[str, Question], path: str, correct: Counter[str], total: Counter[str]
) -> None:
    question = known.get(sample["question_key"])
    if question is None:
        return
    _check_same(sample, question, question.key, path)
    total[question.key] += 1
    correct[question.key] += is_correct(sample["text"], question.answer, question.choices)


def _count_answer(
    answer: dict[str, Any], by_id: dict[str, Question], path: str, correct: Counter[str], total: Counter[str]
) -> None:
    question = by_id.get(answer["id"])
    if question is None:
        return
    if "question" in answer:  # results of 0.1 have ids only
        _check_same(answer, question, repr(question.id), path)
    for text in answer["completions"] or ():
        total[question.key] += 1
        correct[question.key] += is_correct(text, question.answer, question.choices)


def _check_same(measured: dict[str, Any], question: Question, name: str, path: str) -> None:
    """Raise SpecError unless a measured question is the one that the job trains on."""
    if (measured["question"], measured["answer"]) != (question.text, question.answer):
        raise SpecError(
            f"{_KEY}: {shown(path)} has other questions: its {name} is {shown(measured['question'])}; "
            "measure the questions that the job trains on"
        )

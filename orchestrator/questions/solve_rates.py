"""Solve rates that were measured before a job: of a run's samples, or of an evaluation with several answers each."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from audio_qa.answer import is_correct
from audio_qa.question import Question
from orchestrator.job.spec_file import SpecError

_KEY = "data.curriculum.measured"
_FORMS = "name a run's samples.jsonl, or what `earshot evaluate --samples K --temperature 1 --json` printed"


class SolveRate(NamedTuple):
    """How a question was answered lately."""

    right: float
    """Completions that were right, older ones counting less."""
    asked: float
    """Completions, likewise."""

    @property
    def share(self) -> float:
        """The share of right ones; 1/2 of a question that was never asked."""
        return self.right / self.asked if self.asked else 0.5

    def followed_by(self, right: int, asked: int) -> "SolveRate":
        """The rate behind one more group, which halves the weight of all before it."""
        return SolveRate(self.right / 2 + right, self.asked / 2 + asked)


def measured_rates(path: str, questions: Sequence[Question]) -> dict[str, SolveRate]:
    """By question key, how often each of the questions was solved; those that the file says nothing of are left out.

    Raises SpecError: no such file, none of the two forms, other questions under the same keys, or none of these.
    """
    check_measured(path)
    right, asked = Counter[str](), Counter[str]()
    try:
        with Path(path).open(encoding="utf-8") as file:
            first = json.loads(file.readline())
            if "question_key" in first:
                file.seek(0)
                known = {question.key: question for question in questions}
                for line in file:
                    _count_sample(json.loads(line), known, path, right, asked)
            else:
                by_id = {question.id: question for question in questions}
                for answer in first["answers"]:
                    _count_answer(answer, by_id, right, asked)
    except OSError as error:
        raise SpecError(f"{_KEY}: {path!r} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(
            f"{_KEY}: {path!r} holds no answers to measure by ({type(error).__name__}); {_FORMS}"
        ) from error
    if not asked:
        raise SpecError(
            f"{_KEY}: {path!r} says nothing of these training questions; measure them, or name another file"
        )
    return {key: SolveRate(right[key], count) for key, count in asked.items()}


def check_measured(path: str) -> None:
    """Raise SpecError if there is no such file."""
    if not Path(path).is_file():
        raise SpecError(f"{_KEY}: {path!r} is no file; {_FORMS}")


def _count_sample(
    sample: dict[str, Any], known: dict[str, Question], path: str, right: Counter[str], asked: Counter[str]
) -> None:
    question = known.get(sample["question_key"])
    if question is None:
        return
    if (sample["question"], sample["answer"]) != (question.text, question.answer):
        raise SpecError(
            f"{_KEY}: {path!r} is about other questions: its {question.key} is {sample['question']!r}; "
            "measure the questions that the job trains on"
        )
    asked[question.key] += 1
    right[question.key] += is_correct(sample["text"], question.answer)


def _count_answer(answer: dict[str, Any], by_id: dict[str, Question], right: Counter[str], asked: Counter[str]) -> None:
    question = by_id.get(answer["id"])
    for text in answer["completions"] or ():
        if question is not None:
            asked[question.key] += 1
            right[question.key] += is_correct(text, question.answer)

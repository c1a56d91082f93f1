"""The scores of an evaluation as its benchmark counts them, as plain data."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from audio_qa.formats.question_set import QuestionSet
from audio_qa.question import Question
from audio_qa.scoring.intervals import mean_interval
from audio_qa.scoring.rules import Rule, rule_of
from audio_qa.scoring.sampling import pass_at_k
from audio_qa.scoring.score import Judged, judge, report

Completions = Sequence[Sequence[str] | None]
"""By question, one or several completions; None where the question could not be asked."""


def predictions_of(found: QuestionSet, completions: Completions, rule: Rule) -> list[str | None]:
    """Return the prediction for each question; with several completions, that of the majority answer."""
    return [
        rule.voted(texts, question) if texts else None
        for question, texts in zip(found.questions, completions, strict=True)
    ]


def scored(found: QuestionSet, completions: Completions, *, seed: int) -> dict[str, Any]:
    """Return source, scores, pass@k with its intervals, and every answer, as plain data.

    Questions without answers have no scores and no pass@k, and their answers are neither right nor wrong.
    """
    rule = rule_of(found.source.format)
    predictions = predictions_of(found, completions, rule)
    said = [{"completions": None if texts is None else list(texts)} for texts in completions]
    if not found.labelled:
        return {
            "source": asdict(found.source),
            "labelled": False,
            "scores": None,
            "pass_at": {},
            "pass_at_interval": {},
            "answers": [
                _answer(question, prediction, None, None) | one
                for question, prediction, one in zip(found.questions, predictions, said, strict=True)
            ],
        }
    judged = judge(found.questions, predictions, rule)
    answers = [_judged_answer(item) | one for item, one in zip(judged, said, strict=True)]
    chances = _pass_at(found, completions, rule)
    return _plain(found, judged, rule, seed) | {
        "pass_at": {k: sum(values) / len(values) for k, values in chances.items()},
        "pass_at_interval": {k: asdict(mean_interval(values, seed=seed)) for k, values in chances.items()},
        "answers": answers,
    }


def scored_predictions(found: QuestionSet, predictions: Sequence[str | None], *, seed: int) -> dict[str, Any]:
    """Return source, scores and answers for given predictions; None is a missing one."""
    rule = rule_of(found.source.format)
    judged = judge(found.questions, predictions, rule)
    return _plain(found, judged, rule, seed) | {"answers": [_judged_answer(item) for item in judged]}


def _plain(found: QuestionSet, judged: Sequence[Judged], rule: Rule, seed: int) -> dict[str, Any]:
    return {"source": asdict(found.source), "labelled": True, "scores": asdict(report(judged, rule, seed=seed))}


def _judged_answer(item: Judged) -> dict[str, Any]:
    return _answer(item.question, item.prediction, item.official, item.strict)


def _answer(question: Question, prediction: str | None, official: bool | None, strict: bool | None) -> dict[str, Any]:
    return {
        "id": question.id,
        "question": question.text,
        "answer": question.answer,
        "task": question.task,
        "prediction": prediction,
        "official": official,
        "strict": strict,
    }


def _pass_at(found: QuestionSet, completions: Completions, rule: Rule) -> dict[str, list[float]]:
    """Return pass@k of each question, by k (1, 2, 4, … and all samples); empty for one sample per question."""
    most = max((len(texts) for texts in completions if texts is not None), default=0)
    if most < 2:
        return {}
    right = [
        sum(rule.official(rule.prediction(text, question), question) is True for text in texts or ())
        for question, texts in zip(found.questions, completions, strict=True)
    ]
    sizes = sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})
    # A question that could not be asked counts as never answered correctly.
    return {str(k): [pass_at_k(most, c, k) for c in right] for k in sizes}

"""The scores of an evaluation as its benchmark counts them, as plain data."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from audio_qa.files.reader import records_sha256
from audio_qa.formats.question_set import FileOrigin, QuestionSet
from audio_qa.question import Question
from audio_qa.scoring.intervals import mean_interval
from audio_qa.scoring.rules import Rule, rule_of
from audio_qa.scoring.sampling import majority_vote, pass_at_k
from audio_qa.scoring.score import Judged, judge, report
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.spec import JobSpec
from orchestrator.questions.splits import read_split

Completions = Sequence[Sequence[str] | None]
"""By question, one or several completions; None where the question could not be asked."""


def held_out_set(spec: JobSpec, held_out: Sequence[Question]) -> QuestionSet:
    """Return the question set of a job's held-out questions, limited to those that were asked."""
    if spec.data.evaluation == SYNTHETIC:
        return _synthetic(held_out, spec.seed)
    found = read_split(spec.data, "evaluation", check_audio=False)
    records = {question.index: record for question, record in zip(found.questions, found.records, strict=True)}
    asked = tuple(records[question.index] for question in held_out)
    return QuestionSet(found.source, tuple(held_out), asked, (), {})


def predictions_of(found: QuestionSet, completions: Completions, rule: Rule) -> list[str | None]:
    """Return the prediction for each question; with several completions, the majority answer."""
    predictions: list[str | None] = []
    for question, texts in zip(found.questions, completions, strict=True):
        answers = [] if texts is None else [rule.prediction(text, question) for text in texts]
        predictions.append(None if not answers else answers[0] if len(answers) == 1 else majority_vote(answers))
    return predictions


def scored(found: QuestionSet, completions: Completions, *, seed: int) -> dict[str, Any]:
    """Return source, scores, pass@k with its intervals, and every answer, as plain data."""
    rule = rule_of(found.source.format)
    judged = judge(found.questions, predictions_of(found, completions, rule), rule)
    answers = [
        _answer(item) | {"completions": None if texts is None else list(texts)}
        for item, texts in zip(judged, completions, strict=True)
    ]
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
    return _plain(found, judged, rule, seed) | {"answers": [_answer(item) for item in judged]}


def _plain(found: QuestionSet, judged: Sequence[Judged], rule: Rule, seed: int) -> dict[str, Any]:
    return {"source": asdict(found.source), "scores": asdict(report(judged, rule, seed=seed))}


def _answer(item: Judged) -> dict[str, Any]:
    return {
        "id": item.question.id,
        "task": item.question.task,
        "prediction": item.prediction,
        "official": item.official,
        "strict": item.strict,
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


def _synthetic(held_out: Sequence[Question], seed: int) -> QuestionSet:
    """Return the synthetic benchmark's questions with records in Earshot's schema."""
    keys = ("id", "audio", "choices", "answer", "task", "category", "sub_category", "difficulty")
    records = tuple(
        {"question": question.text} | {key: value for key in keys if (value := getattr(question, key))}
        for question in held_out
    )
    # The digest identifies questions, wherever their clips are stored.
    digest = records_sha256({key: value for key, value in record.items() if key != "audio"} for record in records)
    source = FileOrigin(SYNTHETIC, "earshot", digest, f"seed {seed}")
    return QuestionSet(source, tuple(held_out), records, (), {})

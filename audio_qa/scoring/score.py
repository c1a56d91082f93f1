"""The score of a benchmark, by group: the official figure, the same with nothing skipped, and the stricter figure."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audio_qa.question import Question
from audio_qa.scoring.intervals import RESAMPLES, Interval, accuracy_interval
from audio_qa.scoring.rules import Rule, strictly_right

GROUPINGS: dict[str, Callable[[Question], str]] = {
    "by_task": lambda question: question.task,
    "by_difficulty": lambda question: question.difficulty,
    "by_category": lambda question: question.category,
    "by_sub_category": lambda question: question.sub_category,
}


@dataclass(frozen=True, slots=True)
class Judged:
    """One question with its judged prediction."""

    question: Question
    prediction: str | None
    """Prediction as submitted; None if it is missing."""
    official: bool | None
    """Result by the official rule; None if the official figure skips it."""
    strict: bool


@dataclass(frozen=True, slots=True)
class BenchmarkScore:
    """The scores of a group of questions, each figure with its 95 % interval."""

    questions: int
    missing: int
    """Number of questions without a prediction."""
    skipped: int
    """Number of questions that the official figure leaves out, including missing predictions."""
    official: float | None
    """Accuracy by the benchmark's rule, which may skip questions; None if it skips all."""
    official_interval: Interval | None
    official_all: float
    """Accuracy by the benchmark's rule, with skipped questions counted as wrong."""
    official_all_interval: Interval
    strict: float
    """Share of predictions that mean the right choice verbatim, with missing predictions counted as wrong."""
    strict_interval: Interval


@dataclass(frozen=True, slots=True)
class Report:
    """Scores in total and by group; a dataset without labels of a kind has no groups of that kind."""

    rule: str
    rule_source: str
    is_official: bool
    """False if the figures called official come from a stand-in for the benchmark's rule."""
    total: BenchmarkScore
    groups: dict[str, dict[str, BenchmarkScore]]
    """By grouping (`by_task`, …), then by label."""


def judge(questions: Sequence[Question], predictions: Sequence[str | None], rule: Rule) -> list[Judged]:
    """Judge the prediction of each question, in order.

    Raises ValueError for different lengths, and for a question whose answer is not known.
    """
    return [_judged(*pair, rule) for pair in zip(questions, predictions, strict=True)]


def _judged(question: Question, prediction: str | None, rule: Rule) -> Judged:
    if not question.answer.strip():
        raise ValueError(f"{question.key}: a question without an answer cannot be judged")
    meant = None if prediction is None else rule.meant(prediction, question)
    return Judged(question, prediction, rule.official(prediction, question), strictly_right(meant, question))


def report(judged: Sequence[Judged], rule: Rule, *, seed: int = 0, resamples: int = RESAMPLES) -> Report:
    """Return the scores. The same seed gives the same intervals. Raises ValueError without questions."""
    groups: dict[str, dict[str, BenchmarkScore]] = {}
    for name, label in GROUPINGS.items():
        members: dict[str, list[Judged]] = defaultdict(list)
        for item in judged:
            members[label(item.question) or "none"].append(item)
        labelled = members.keys() != {"none"}
        groups[name] = {k: _score(v, seed, resamples) for k, v in sorted(members.items())} if labelled else {}
    return Report(rule.name, rule.source, rule.is_official, _score(judged, seed, resamples), groups)


def _score(judged: Sequence[Judged], seed: int, resamples: int) -> BenchmarkScore:
    n = len(judged)
    right = sum(item.official is True for item in judged)
    skipped = sum(item.official is None for item in judged)
    strict = sum(item.strict for item in judged)
    counted = n - skipped

    def interval(right: int, wrong: int, skipped: int = 0) -> Interval:
        return accuracy_interval(right, wrong, skipped, seed=seed, resamples=resamples)

    return BenchmarkScore(
        questions=n,
        missing=sum(item.prediction is None for item in judged),
        skipped=skipped,
        official=right / counted if counted else None,
        official_interval=interval(right, counted - right, skipped) if counted else None,
        official_all=right / max(1, n),
        official_all_interval=interval(right, n - right),
        strict=strict / max(1, n),
        strict_interval=interval(strict, n - strict),
    )

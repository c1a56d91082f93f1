"""A result on a benchmark: the official figure, the same with nothing skipped, and our stricter count, by group."""

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
    """One question and what was answered."""

    question: Question
    prediction: str | None
    """As it is handed in; None where there is none."""
    official: bool | None
    """None where the official figure skips it."""
    strict: bool


@dataclass(frozen=True, slots=True)
class BenchmarkScore:
    """How a group of questions was answered, each figure with its 95 % interval."""

    questions: int
    missing: int
    """Questions without a prediction."""
    skipped: int
    """Questions that the official figure leaves out, the missing ones among them."""
    official: float | None
    """As the benchmark counts, which may skip questions; None where it skips all."""
    official_interval: Interval | None
    official_all: float
    """By the benchmark's rule, with what it skips counted as wrong."""
    official_all_interval: Interval
    strict: float
    """The right choice letter by letter, with what is missing counted as wrong."""
    strict_interval: Interval


@dataclass(frozen=True, slots=True)
class Report:
    """A result in total and by group; a dataset without labels of a kind has no groups of it."""

    rule: str
    rule_source: str
    is_official: bool
    """False where the figures called official are by a stand-in for the benchmark's rule."""
    total: BenchmarkScore
    groups: dict[str, dict[str, BenchmarkScore]]
    """By grouping (`by_task`, …), then by label."""


def judge(questions: Sequence[Question], predictions: Sequence[str | None], rule: Rule) -> list[Judged]:
    """Each question with its prediction judged, in order. Raises ValueError for different lengths."""
    return [
        Judged(question, prediction, rule.official(prediction, question), strictly_right(prediction, question))
        for question, prediction in zip(questions, predictions, strict=True)
    ]


def report(judged: Sequence[Judged], rule: Rule, *, seed: int = 0, resamples: int = RESAMPLES) -> Report:
    """The figures of a result. The same seed gives the same intervals. Raises ValueError without a question."""
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

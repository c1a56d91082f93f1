"""Statistics of a question set."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from audio_qa.answer import chance, normal_form
from audio_qa.audio import SAMPLE_RATE, clip_samples
from audio_qa.formats.question_set import Problem, ProblemKind, QuestionSet
from audio_qa.question import Question


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of questions, and lengths of clips in seconds (0 if clips were not checked)."""

    questions: int
    clips: int
    by_task: dict[str, int]
    by_category: dict[str, int]
    by_sub_category: dict[str, int]
    by_difficulty: dict[str, int]
    by_choices: dict[str, int]
    """Number of questions by number of choices."""
    repeated_choices: int
    """Number of questions with duplicate choices."""
    chance_accuracy: float | None
    """Expected accuracy of random guesses; None without answers."""
    seconds_total: float
    seconds_shortest: float
    seconds_mean: float
    seconds_longest: float


def statistics(found: QuestionSet) -> Statistics:
    """Return the statistics of the questions that were read, including those with a missing clip."""
    questions = found.described
    clips = {question.audio for question in questions}
    seconds = [found.seconds[clip] for clip in clips if clip in found.seconds] or [0.0]
    return Statistics(
        questions=len(questions),
        clips=len(clips),
        by_task=_counts(questions, lambda q: q.task),
        by_category=_counts(questions, lambda q: q.category),
        by_sub_category=_counts(questions, lambda q: q.sub_category),
        by_difficulty=_counts(questions, lambda q: q.difficulty),
        by_choices=_counts(questions, lambda q: str(len(q.choices))),
        repeated_choices=sum(len(set(map(normal_form, q.choices))) < len(q.choices) for q in questions),
        chance_accuracy=sum(map(chance, questions)) / len(questions) if any(q.answer for q in questions) else None,
        seconds_total=round(sum(seconds), 3),
        seconds_shortest=round(min(seconds), 3),
        seconds_mean=round(sum(seconds) / len(seconds), 3),
        seconds_longest=round(max(seconds), 3),
    )


def too_long(found: QuestionSet, max_seconds: float, *, refused: bool) -> list[Problem]:
    """Return a problem for each question whose clip is longer than the model's audio input.

    Args:
        refused: a job refuses such clips; otherwise it truncates them.
    """
    correction = (
        "shorten the clip, leave the question out, or set model.too_long to truncate"
        if refused
        else "it will be truncated"
    )
    return [
        Problem(
            ProblemKind.TOO_LONG,
            f"question {question.key}",
            question.id,
            f"the clip {question.audio!r} has {found.seconds[question.audio]:.1f} s and the model hears "
            f"{max_seconds:.0f} s; {correction}",
            refused,
        )
        for question in found.questions
        if found.seconds.get(question.audio, 0.0) > max_seconds
    ]


def too_short(found: QuestionSet, least_samples: int) -> list[Problem]:
    """Return a problem for each question whose clip is too short for one audio token: the model would not hear it.

    Args:
        least_samples: samples at 16 kHz that the model needs.
    """
    least = least_samples / SAMPLE_RATE
    return [
        Problem(
            ProblemKind.TOO_SHORT,
            f"question {question.key}",
            question.id,
            f"the clip {question.audio!r} has {found.seconds[question.audio]:.4f} s and the model needs {least:.4f} s "
            f"({least_samples} samples at 16 kHz) to hear anything; replace the clip, or leave the question out",
        )
        for question in found.questions
        if question.audio in found.seconds and clip_samples(found.seconds[question.audio]) < least_samples
    ]


def _counts(questions: Iterable[Question], label: Callable[[Question], str]) -> dict[str, int]:
    """Return the number of questions by label; empty for a dataset without labels of the kind."""
    counts = Counter(map(label, questions))
    return {} if set(counts) == {""} else {name or "none": n for name, n in sorted(counts.items())}

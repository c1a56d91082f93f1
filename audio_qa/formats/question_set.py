"""The result of reading a question file: its questions, their records as in the file, and all problems."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from audio_qa.dataset import DatasetError
from audio_qa.question import Question

SHOWN = 5
"""Number of problems that an error message lists before it counts the rest."""


class ProblemKind(StrEnum):
    """A kind of problem with an item of a question file."""

    ITEM = "item"
    """It cannot be read as a question: a key is missing or has another type."""
    ANSWER = "answer"
    """The answer is not among the choices, or could be several of them."""
    DUPLICATE_ID = "duplicate_id"
    MISSING_AUDIO = "missing_audio"
    UNREADABLE_AUDIO = "unreadable_audio"
    TOO_SHORT = "too_short"
    """The clip is too short for one audio token."""
    TOO_LONG = "too_long"
    """The clip is longer than the model's audio input."""
    OVERLAP = "overlap"
    """The clip is in the training questions and in the held-out questions."""
    NOT_SINGLE_CHOICE = "not_single_choice"
    """It is not a question with one right choice about one clip; it is left out."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with one item."""

    kind: ProblemKind
    place: str
    """File and line, row or item."""
    question_id: str
    """Id of the question; empty if it cannot be read."""
    detail: str
    """Problem and correction."""
    refused: bool = True
    """True if a job refuses data with the problem; otherwise the item is left out or its clip truncated."""
    record: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    """The complete record of an item that was left out, as in the file; else empty."""

    def __str__(self) -> str:
        return " ".join(f"{self.place}: {self.detail}".split())


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """The origin of questions, precise enough to compare scores."""

    location: str
    """Path, URL or name of a dataset, as in the job file."""
    format: str
    sha256: str
    """Hash of the question file's bytes, or of the records as JSON if there is no single file."""
    version: str
    """Version of the benchmark, if the hash identifies it; else empty."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The content of a question file."""

    source: FileOrigin
    questions: tuple[Question, ...]
    """Questions without problems."""
    records: tuple[Mapping[str, object], ...]
    """The complete record of each question, as in the file."""
    problems: tuple[Problem, ...]
    seconds: Mapping[str, float]
    """Length of each clip by its path; empty if clips were not checked."""
    described: tuple[Question, ...] = ()
    """Every question without problems apart from its clip."""
    labelled: bool = True
    """True if the questions have answers; False for a hidden test set, or if answers were not to be read."""
    inside: frozenset[str] = frozenset()
    """Paths of the clips that the file itself contains: they are in the cache."""

    @property
    def refused(self) -> list[Problem]:
        """Problems for which a job refuses the data."""
        return [problem for problem in self.problems if problem.refused]

    def left_out(self) -> dict[str, int]:
        """Return the number of items left out of accepted data, by kind of problem."""
        return dict(Counter(problem.kind.value for problem in self.problems if not problem.refused))

    def accepted(self) -> tuple[Question, ...]:
        """Return the questions. Raises DatasetError, with the first problems, if a job refuses the data."""
        refuse([str(problem) for problem in self.refused])
        return self.questions


def summary(problems: Sequence[str], hint: str = "") -> str:
    """Return one line with the first problems and their number; `hint` says where to see the rest."""
    if len(problems) == 1:
        return problems[0]
    more = len(problems) - SHOWN
    shown = " | ".join(problems[:SHOWN])
    rest = f" | and {more} more{hint}" if more > 0 else ""
    return f"{len(problems)} problems: {shown}{rest}"


def refuse(problems: Sequence[str]) -> None:
    """Raise DatasetError if there are any problems."""
    if problems:
        raise DatasetError(" ".join(summary(problems, "; `earshot data check` lists them all").split()))

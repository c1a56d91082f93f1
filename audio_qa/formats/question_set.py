"""What was read of a question file: its questions, their records as they stand there, and everything wrong with it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from audio_qa.dataset import DatasetError
from audio_qa.question import Question

SHOWN = 5
"""Problems that an error names before it counts the rest."""


class ProblemKind(StrEnum):
    """What can be wrong with an item of a question file."""

    ITEM = "item"
    """It cannot be read as a question: a key is missing or has another type."""
    ANSWER = "answer"
    """The answer is not among the choices."""
    DUPLICATE_ID = "duplicate_id"
    MISSING_AUDIO = "missing_audio"
    UNREADABLE_AUDIO = "unreadable_audio"
    TOO_LONG = "too_long"
    """The clip is longer than the model hears."""
    OVERLAP = "overlap"
    """The clip is heard in training and in the evaluation."""
    NOT_SINGLE_CHOICE = "not_single_choice"
    """It asks for something else than one choice about one clip; it is left out."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one item."""

    kind: ProblemKind
    place: str
    """File and line or item."""
    question_id: str
    """Empty where the item has none that can be read."""
    detail: str
    """What is wrong and how to mend it."""
    refused: bool = True
    """Whether a job refuses the data for it. Where not, the item is left out, or its clip cut, and counted."""

    def __str__(self) -> str:
        return " ".join(f"{self.place}: {self.detail}".split())


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """Where questions come from, precisely enough to compare scores."""

    location: str
    """Path, URL or name of a dataset, as it was given."""
    format: str
    sha256: str
    """Of the question file's bytes; of the records as JSON where there is no one file."""
    version: str
    """The benchmark's own version where the hash tells it, else empty."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """A question file that was read."""

    source: FileOrigin
    questions: tuple[Question, ...]
    """Those without a problem that leaves them out."""
    records: tuple[Mapping[str, object], ...]
    """The record of each question, whole, as the file has it."""
    problems: tuple[Problem, ...]
    seconds: Mapping[str, float]
    """Length of each clip by its path; empty where clips were not looked at."""
    described: tuple[Question, ...] = ()
    """Every question whose text is in order, whether or not its clip is."""

    @property
    def refused(self) -> list[Problem]:
        """The problems that a job refuses the data for."""
        return [problem for problem in self.problems if problem.refused]

    def left_out(self) -> dict[str, int]:
        """How many items were left out though a job takes the rest, by kind of problem."""
        return dict(Counter(problem.kind.value for problem in self.problems if not problem.refused))

    def accepted(self) -> tuple[Question, ...]:
        """The questions; raises DatasetError with the first problems and their number where a job refuses them."""
        refuse([str(problem) for problem in self.refused])
        return self.questions


def summary(problems: Sequence[str], hint: str = "") -> str:
    """One line for some problems: the first ones, how many there are, and where they are all to be seen."""
    if len(problems) == 1:
        return problems[0]
    more = len(problems) - SHOWN
    shown = " | ".join(problems[:SHOWN])
    rest = f" | and {more} more{hint}" if more > 0 else ""
    return f"{len(problems)} problems: {shown}{rest}"


def refuse(problems: Sequence[str]) -> None:
    """Raise DatasetError for problems, if there are any."""
    if problems:
        raise DatasetError(" ".join(summary(problems, "; `earshot data check` lists them all").split()))

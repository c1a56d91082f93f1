"""`earshot data check`: every problem of a job's questions or of one question file, and their statistics."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from audio_qa.files.clips import QUICK, ClipCheck
from audio_qa.formats.item import Answers
from audio_qa.formats.question_set import Problem, QuestionSet
from audio_qa.inspection.overlap import overlapping
from audio_qa.inspection.statistics import Statistics, statistics
from orchestrator.job.sections.data import SYNTHETIC, DataSection
from orchestrator.job.spec import JobSpec, Method
from orchestrator.preflight.clip_lengths import ClipLengths, clip_lengths
from orchestrator.questions.held_out import check_held_out
from orchestrator.questions.splits import Split, clip_cache, read_split, trains


@dataclass(frozen=True, slots=True)
class CheckedSplit:
    """The result for one question file."""

    found: QuestionSet
    statistics: Statistics
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class DataCheck:
    """The result of a check."""

    splits: dict[str, CheckedSplit]
    overlap: tuple[Problem, ...]
    lengths: ClipLengths

    @property
    def refused(self) -> int:
        """Number of problems for which a job refuses the questions."""
        problems = [*self.overlap, *(p for split in self.splits.values() for p in split.problems)]
        return sum(problem.refused for problem in problems)

    @property
    def without_answers(self) -> bool:
        """Return whether the check is of one file, and it has no answers."""
        return not any(split.found.labelled or name in ("train", "evaluation") for name, split in self.splits.items())

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "accepted": self.refused == 0,
            "refused": self.refused,
            "max_seconds": self.lengths.longest_seconds,
            "min_seconds": round(self.lengths.least_seconds, 6),
            "splits": {
                name: {
                    "source": asdict(split.found.source),
                    "labelled": split.found.labelled,
                    "statistics": asdict(split.statistics),
                    "problems": _plain(split.problems),
                }
                for name, split in self.splits.items()
            },
            "overlap": _plain(self.overlap),
        }


def check_job(spec: JobSpec, clip_check: ClipCheck = QUICK) -> DataCheck:
    """Check the question files of a job, also for overlap. Built-in questions are not checked.

    Raises:
        DatasetError: a file cannot be read at all.
        SpecError: the model folder does not exist, or the job trains and its held-out questions have no answers.
    """
    lengths = clip_lengths(spec.model.path)
    truncate = spec.model.too_long == "truncate"
    splits: dict[str, CheckedSplit] = {}
    sources: dict[Split, str | None] = {"train": spec.data.train, "evaluation": spec.data.evaluation}
    if spec.method is Method.EVALUATE:
        del sources["train"]
    for split, source in sources.items():
        if source not in (None, SYNTHETIC):
            found = read_split(spec.data, split, clip_check=clip_check)
            if split == "evaluation":
                check_held_out(spec, found)
            splits[split] = _checked(found, lengths, truncate=truncate)
    overlap: list[Problem] = []
    if len(splits) == 2 and trains(spec) and not spec.data.unlabelled:
        overlap = overlapping(splits["train"].found.questions, splits["evaluation"].found.questions, clip_cache())
    return DataCheck(splits, tuple(overlap), lengths)


def check_file(data: DataSection, lengths: ClipLengths, clip_check: ClipCheck = QUICK) -> DataCheck:
    """Check the file that `data.train` names, which may have no answers, as hidden test sets.

    Raises DatasetError if it cannot be read at all.
    """
    found = read_split(data, "train", clip_check=clip_check, answers=Answers.OPTIONAL)
    return DataCheck({found.source.location: _checked(found, lengths, truncate=False)}, (), lengths)


def _checked(found: QuestionSet, lengths: ClipLengths, *, truncate: bool) -> CheckedSplit:
    problems = (*found.problems, *lengths.problems(found.questions, found.seconds, truncate=truncate))
    return CheckedSplit(found, statistics(found), problems)


def _plain(problems: Sequence[Problem]) -> list[dict[str, object]]:
    keys = ("kind", "place", "question_id", "detail", "refused")
    return [{key: getattr(problem, key) for key in keys} for problem in problems]

"""`earshot data check`: every problem of a job's questions or of one question file, and their statistics."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audio_qa.families import FACTS, facts_of
from audio_qa.formats.question_set import Problem, QuestionSet
from audio_qa.inspection.overlap import overlapping
from audio_qa.inspection.statistics import Statistics, statistics, too_long
from orchestrator.job.sections.data import SYNTHETIC, DataSection
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec, Method
from orchestrator.preflight.model_folder import check_model_folder
from orchestrator.questions.splits import Split, read_split, trains

LONGEST_SECONDS = max(facts.longest_seconds for facts in FACTS.values())
"""Longest clip of the published models, in seconds: the limit if no model is named."""
_TINY_SECONDS = 2.0


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
    max_seconds: float

    @property
    def refused(self) -> int:
        """Number of problems for which a job refuses the questions."""
        problems = [*self.overlap, *(p for split in self.splits.values() for p in split.problems)]
        return sum(problem.refused for problem in problems)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "accepted": self.refused == 0,
            "refused": self.refused,
            "max_seconds": self.max_seconds,
            "splits": {
                name: {
                    "source": asdict(split.found.source),
                    "statistics": asdict(split.statistics),
                    "problems": _plain(split.problems),
                }
                for name, split in self.splits.items()
            },
            "overlap": _plain(self.overlap),
        }


def check_job(spec: JobSpec) -> DataCheck:
    """Check the question files of a job, also for overlap. Built-in questions are not checked.

    Raises:
        DatasetError: a file cannot be read at all.
        SpecError: the model folder does not exist.
    """
    max_seconds = longest_clip_seconds(spec.model.path)
    splits: dict[str, CheckedSplit] = {}
    sources: dict[Split, str | None] = {"train": spec.data.train, "evaluation": spec.data.evaluation}
    if spec.method is Method.EVALUATE:
        del sources["train"]
    for split, source in sources.items():
        if source not in (None, SYNTHETIC):
            splits[split] = _checked(read_split(spec.data, split), max_seconds, refused=spec.model.too_long == "refuse")
    overlap: list[Problem] = []
    if len(splits) == 2 and trains(spec) and not spec.data.unlabelled:
        overlap = overlapping(splits["train"].found.questions, splits["evaluation"].found.questions)
    return DataCheck(splits, tuple(overlap), max_seconds)


def check_file(data: DataSection, max_seconds: float) -> DataCheck:
    """Check the file that `data.train` names. Raises DatasetError if it cannot be read at all."""
    found = read_split(data, "train")
    return DataCheck({found.source.location: _checked(found, max_seconds, refused=True)}, (), max_seconds)


def longest_clip_seconds(model: str) -> float:
    """Return the longest clip that a model takes, in seconds, from its folder's configuration. Raises SpecError."""
    if model in TINY_MODELS:
        return _TINY_SECONDS
    check_model_folder(model)
    longest = facts_of(model).longest_seconds
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = Path(model) / name
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        chunk = config.get("chunk_length", config.get("feature_extractor", {}).get("chunk_length"))
        if chunk is not None:
            return float(min(chunk, longest))
    return longest


def _checked(found: QuestionSet, max_seconds: float, *, refused: bool) -> CheckedSplit:
    problems = (*found.problems, *too_long(found, max_seconds, refused=refused))
    return CheckedSplit(found, statistics(found), problems)


def _plain(problems: Sequence[Problem]) -> list[dict[str, object]]:
    return [asdict(problem) for problem in problems]

"""The lengths of clips that a model hears, from its folder's configuration, without loading it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio_qa.audio import SAMPLE_RATE, clip_samples
from audio_qa.families import FACTS, facts_of
from audio_qa.formats.question_set import FileOrigin, Problem, QuestionSet, refuse
from audio_qa.inspection.statistics import too_long, too_short
from audio_qa.model_folder.folder import feature_extractor
from audio_qa.question import Question
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import PLACEHOLDER_PREFIX, JobSpec
from orchestrator.preflight.model_folder import check_model_folder

_TINY_SECONDS = 2.0
_HOP_LENGTH = 160
"""Samples between two mel frames, unless a folder says otherwise."""


@dataclass(frozen=True, slots=True)
class ClipLengths:
    """Lengths of clips that a model takes."""

    longest_seconds: float
    least_samples: int
    """Samples at 16 kHz that give one audio token."""

    @property
    def least_seconds(self) -> float:
        return self.least_samples / SAMPLE_RATE

    def fits(self, seconds: float, *, truncate: bool) -> bool:
        """Return whether the model takes a clip of this length; long ones may be truncated."""
        return clip_samples(seconds) >= self.least_samples and (truncate or seconds <= self.longest_seconds)

    def problems(self, asked: Sequence[Question], seconds: Mapping[str, float], *, truncate: bool) -> list[Problem]:
        """Return a problem for each question whose clip has another length; long ones may be truncated."""
        found = QuestionSet(FileOrigin("", "", "", ""), tuple(asked), (), (), seconds)
        return [*too_short(found, self.least_samples), *too_long(found, self.longest_seconds, refused=not truncate)]


PUBLISHED_LENGTHS = ClipLengths(
    max(facts.longest_seconds for facts in FACTS.values()),
    min(facts.least_samples(_HOP_LENGTH) for facts in FACTS.values()),
)
"""Lengths that one of the published models takes: the limits if no model is named."""


def clip_lengths(model: str) -> ClipLengths:
    """Return the lengths of clips that a job's model takes. Raises SpecError or ModelError for a folder without one."""
    if model in TINY_MODELS:
        return ClipLengths(_TINY_SECONDS, FACTS["qwen2_audio"].least_samples(_HOP_LENGTH))
    if model.startswith(PLACEHOLDER_PREFIX):
        return PUBLISHED_LENGTHS
    check_model_folder(model)
    facts, extractor = facts_of(model), feature_extractor(Path(model))
    longest = min(extractor.number("chunk_length") or facts.longest_seconds, facts.longest_seconds)
    return ClipLengths(float(longest), facts.least_samples(extractor.number("hop_length") or _HOP_LENGTH))


def refuse_lengths(
    spec: JobSpec, lengths: ClipLengths, asked: Sequence[Question], seconds: Mapping[str, float]
) -> None:
    """Raise DatasetError if the model cannot hear a clip of the questions that a job asks."""
    problems = lengths.problems(asked, seconds, truncate=spec.model.too_long == "truncate")
    refuse([str(problem) for problem in problems if problem.refused])

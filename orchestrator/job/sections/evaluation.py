"""Answers to held-out questions."""

from enum import StrEnum

from pydantic import Field, model_validator

from orchestrator.job.sections.section import Section


class AudioControl(StrEnum):
    """What is heard in the clip's place: the controls of an evaluation."""

    SILENCE = "silence"
    """Silence of the same length: what is right then comes from the text."""
    SHUFFLED = "shuffled"
    """Another question's clip: what is right then comes from the text, or from hearing anything at all."""


class EvaluationSection(Section):
    """Answers to the held-out questions: with the clip, and once more with what is heard in its place."""

    every: int = Field(default=100, ge=0)
    """Steps between evaluations; 0 evaluates at the start and the end only."""
    questions: int = Field(default=0, ge=0)
    """How many of the held-out questions; 0 takes all."""
    controls: tuple[AudioControl, ...] = (AudioControl.SILENCE,)
    """What else is heard in the clip's place: silence, shuffled (another question's clip); each asks every question
    once more. With `method: evaluate` both by default."""
    samples: int = Field(default=1, ge=1)
    """Answers a question; of several, the majority's counts, and pass@k is told."""
    temperature: float = Field(default=0, ge=0)
    """Of these answers; 0 is greedy, which several answers make no sense with."""

    @model_validator(mode="after")
    def _samples_differ(self) -> "EvaluationSection":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 need a temperature above 0: greedy answers are all the same")
        return self

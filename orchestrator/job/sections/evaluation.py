"""Evaluation on held-out questions."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from protocol.marks import Resume
from protocol.settings import Settings


class AudioControl(StrEnum):
    """A control of an evaluation: replaces the clip, to check that the model uses the audio."""

    SILENCE = "silence"
    """Silence of the same length: right answers come from the text."""
    SHUFFLED = "shuffled"
    """Another question's clip: right answers come from the text, or from the presence of any sound."""


class EvaluationSection(Settings):
    """Evaluation on the held-out questions: with their clips, and again with each control."""

    every: Annotated[int, Resume.FREE] = Field(default=100, ge=0)
    """Steps between evaluations; 0 evaluates at the start and the end only."""
    questions: int = Field(default=0, ge=0)
    """Number of held-out questions to ask; 0 asks all."""
    controls: tuple[AudioControl, ...] = (AudioControl.SILENCE,)
    """Controls, which ask every question once more with its clip replaced: by silence, or by another question's clip
    (`shuffled`). With `method: evaluate` the default is both."""
    samples: int = Field(default=1, ge=1, le=4096)
    """Answers per question. With several, the majority vote counts, and pass@k is reported."""
    temperature: float = Field(default=0, ge=0)
    """Sampling temperature of the answers; 0 is greedy decoding, for one answer per question only."""

    @model_validator(mode="after")
    def _samples_differ(self) -> "EvaluationSection":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 need a temperature above 0: greedy answers are identical")
        return self

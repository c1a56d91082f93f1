"""The questions, and the order they are drawn in."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from audio_qa.formats.mapped import check_columns
from audio_qa.prompt import PromptTemplate
from audio_qa.synthetic.benchmark import CATEGORIES
from orchestrator.job.sections.section import Section

SYNTHETIC = "builtin:synthetic"

DataFormat = Literal["auto", "earshot", "avqa", "mmau", "mmar", "mmau_pro", "air_bench", "mapped"]


class CurriculumOrder(StrEnum):
    """In which order questions are drawn."""

    LEARNABLE = "learnable"
    """At random, those most often of which some answers are right and some wrong."""
    EASY_FIRST = "easy_first"
    """Each once an epoch, from the one that was solved most often to the one that was solved least."""


class CurriculumSection(Section):
    """Which questions are drawn, by how often they are solved and not all alike; `data.shuffle` does nothing then."""

    order: CurriculumOrder = CurriculumOrder.LEARNABLE
    """`learnable`: at random, in proportion to p (1 - p) with p the share of right answers so far, which every group of
    the job updates; `easy_first`: by falling share in `measured`."""
    measured: str | None = None
    """Where the shares start: a run's `samples.jsonl`, or what `earshot evaluate --samples K --json` printed about the
    training questions. A question that was not measured counts as solved half of the time."""
    min_solve_rate: float = Field(default=0, ge=0, le=1)
    """Questions that `measured` shows solved less often are left out."""
    max_solve_rate: float = Field(default=1, ge=0, le=1)
    """Questions that `measured` shows solved more often are left out."""
    uniform: float = Field(default=0.1, gt=0, le=1)
    """Of `learnable`: the share of draws that go to all questions alike, so that none is given up for good."""

    @model_validator(mode="after")
    def _is_measured(self) -> "CurriculumSection":
        if self.min_solve_rate > self.max_solve_rate:
            raise ValueError(
                f"min_solve_rate ({self.min_solve_rate}) is more than max_solve_rate ({self.max_solve_rate}): "
                "exchange them"
            )
        limited = self.min_solve_rate > 0 or self.max_solve_rate < 1
        if self.measured is None and (limited or self.order is CurriculumOrder.EASY_FIRST):
            raise ValueError("order easy_first and bounds on the solve rate need measured: name a file")
        return self


class DataSection(Section):
    """The questions."""

    train: str
    """A question file or its URL, a dataset of Hugging Face's (`hf:OWNER/NAME#SPLIT`, or a saved one's folder), or
    `builtin:synthetic`, which is made here from the job's seed. With `method: evaluate` it is not read, and may be
    left out."""
    evaluation: str | None = None
    """Held-out questions, likewise; without them nothing is evaluated. No clip may be in both."""
    format: DataFormat = "auto"
    """How the question file is written; `auto` tells it from its keys."""
    columns: dict[str, str | list[str]] = Field(default={})
    """For any other file: by key of Earshot's own schema, the file's column; for `choices` also a list of columns."""
    audio_root: str | None = None
    """Folder or URL that relative clip paths start at; by default the question file's own folder."""
    evaluation_format: DataFormat = "auto"
    """`format` of the held-out questions."""
    evaluation_columns: dict[str, str | list[str]] = Field(default={})
    """`columns` of the held-out questions."""
    evaluation_audio_root: str | None = None
    """`audio_root` of the held-out questions."""
    prompt: Annotated[PromptTemplate, BeforeValidator(lambda v: str(v) if isinstance(v, int) else v)] = (
        PromptTemplate.ANSWER
    )
    """How questions are asked: the paper's prompt "1", "2" (answer in tags) or "3" (thinking, then answer)."""
    shuffle: bool = True
    """Draw questions in random order, another one each epoch; the order depends on the seed alone."""
    unlabelled: bool = False
    """Train without the answers: the training questions need none, and one that stands there is not read. Rewards must
    then do without (`majority`, `format`), and the held-out questions may be about the same clips."""
    curriculum: CurriculumSection | None = None
    """Draw by how often questions are solved; without this section all are drawn alike."""
    synthetic_train: int = Field(default=4096, ge=40)
    """Training questions of `builtin:synthetic`."""
    synthetic_train_categories: list[str] = Field(default=[])
    """Question types of the training questions of `builtin:synthetic`, by default all; held-out ones are of all."""
    synthetic_evaluation: int = Field(default=300, ge=10)
    """Held-out questions of `builtin:synthetic`."""

    @field_validator("columns", "evaluation_columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        check_columns(columns)
        return columns

    @field_validator("synthetic_train_categories")
    @classmethod
    def _known_categories(cls, categories: list[str]) -> list[str]:
        for name in categories:
            if name not in CATEGORIES:
                raise ValueError(f"{name!r} is no question type; choose from {', '.join(CATEGORIES)}")
        return categories

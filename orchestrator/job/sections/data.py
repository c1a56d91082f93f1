"""The questions, and the order in which they are drawn."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from audio_qa.errors import shown
from audio_qa.formats.mapped import check_columns
from audio_qa.prompt import PromptTemplate
from audio_qa.synthetic.benchmark import CATEGORIES
from protocol.frozen_mapping import Frozen, FrozenMapping
from protocol.marks import Names, PathTo
from protocol.settings import Settings

SYNTHETIC = "builtin:synthetic"

_Text = Annotated[str, Names.NOTHING]
_Columns = Frozen[Mapping[_Text, _Text | tuple[_Text, ...]]]

DataFormat = Literal["auto", "earshot", "avqa", "mmau", "mmar", "mmau_pro", "air_bench", "mapped"]


class CurriculumOrder(StrEnum):
    """The order in which questions are drawn."""

    LEARNABLE = "learnable"
    """At random, most often those with both right and wrong answers."""
    EASY_FIRST = "easy_first"
    """Each once an epoch, by falling solve rate."""


class CurriculumSection(Settings):
    """Questions are drawn by their solve rates, the shares of right answers; `data.shuffle` has no effect."""

    order: CurriculumOrder = CurriculumOrder.LEARNABLE
    """`learnable`: at random, in proportion to p (1 - p) with p the solve rate, which every group of the job updates;
    `easy_first`: each once an epoch, by falling solve rate in `measured`."""
    measured: Annotated[str | None, PathTo.SOLVE_RATES] = None
    """File with the initial solve rates: a run's `samples.jsonl`, or the output of
    `earshot evaluate --samples K --json` for the training questions. A question that is not in it starts at 0.5."""
    min_solve_rate: float = Field(default=0, ge=0, le=1)
    """Questions with a lower solve rate in `measured` are left out."""
    max_solve_rate: float = Field(default=1, ge=0, le=1)
    """Questions with a higher solve rate in `measured` are left out."""
    uniform: float = Field(default=0.1, gt=0, le=1)
    """Share of the draws with order `learnable` that choose uniformly among all questions, so that every question keeps
    a chance."""

    @model_validator(mode="after")
    def _check_measured(self) -> "CurriculumSection":
        if self.min_solve_rate > self.max_solve_rate:
            raise ValueError(
                f"min_solve_rate ({self.min_solve_rate}) is greater than max_solve_rate ({self.max_solve_rate}): "
                "swap them"
            )
        limited = self.min_solve_rate > 0 or self.max_solve_rate < 1
        if self.measured is None and (limited or self.order is CurriculumOrder.EASY_FIRST):
            raise ValueError("order easy_first and bounds on the solve rate need measured: name a file")
        return self


class DataSection(Settings):
    """The questions."""

    train: Annotated[str, PathTo.QUESTIONS]
    """Training questions: a question file or its URL, a Hugging Face dataset (`hf:OWNER/NAME#SPLIT`, or a folder of
    one), or `builtin:synthetic`, generated from the job's seed. With `method: evaluate` they are not read and may
    be left out."""
    evaluation: Annotated[str | None, PathTo.QUESTIONS] = None
    """Held-out questions, in the same forms; without them nothing is evaluated. No clip may be in both sets."""
    format: DataFormat = "auto"
    """Format of the question file; `auto` detects it from the keys."""
    columns: _Columns = FrozenMapping({})
    """Column names of a file in another format, by key of Earshot's schema; `choices` may have a list of columns. In
    place of `answer`, the keys `answer_text`, `answer_index` (from 0), `answer_number` (from 1) and `answer_letter` (A
    is the first) say how answers are written."""
    audio_root: Annotated[str | None, PathTo.CLIPS] = None
    """Folder or URL that relative clip paths start at; by default the folder of the question file."""
    evaluation_format: DataFormat = "auto"
    """`format` of the held-out questions."""
    evaluation_columns: _Columns = FrozenMapping({})
    """`columns` of the held-out questions."""
    evaluation_audio_root: Annotated[str | None, PathTo.CLIPS] = None
    """`audio_root` of the held-out questions."""
    prompt: Annotated[PromptTemplate, BeforeValidator(lambda v: str(v) if isinstance(v, int) else v)] = (
        PromptTemplate.ANSWER
    )
    """Prompt template: the paper's "1" (question only), "2" (answer in tags) or "3" (thinking, then answer)."""
    shuffle: bool = True
    """Draw questions in random order, reshuffled each epoch; the order depends on the seed alone."""
    unlabelled: bool = False
    """Train without answers: the training questions need none, and answers in the file are not read. Only rewards that
    need no answer (`majority`, `format`) are allowed, and held-out questions may be about the same clips."""
    curriculum: CurriculumSection | None = None
    """Draw questions by their solve rates; without this section all questions are drawn equally often."""
    synthetic_train: int = Field(default=4096, ge=40, le=1_000_000)
    """Number of training questions of `builtin:synthetic`."""
    synthetic_train_categories: tuple[_Text, ...] = ()
    """Question types of the training questions of `builtin:synthetic`, by default all; held-out questions always have
    all types."""
    synthetic_evaluation: int = Field(default=300, ge=10, le=1_000_000)
    """Number of held-out questions of `builtin:synthetic`."""

    @field_validator("train", "evaluation", mode="before")
    @classmethod
    def _check_single(cls, location: Any) -> Any:
        if isinstance(location, list | tuple):
            raise ValueError("one question file is needed: join several into one, in one format")
        return location

    @field_validator("columns", "evaluation_columns")
    @classmethod
    def _check_columns(cls, columns: Mapping[str, str | tuple[str, ...]]) -> Mapping[str, str | tuple[str, ...]]:
        check_columns(columns)
        return columns

    @field_validator("synthetic_train_categories")
    @classmethod
    def _check_categories(cls, categories: tuple[str, ...]) -> tuple[str, ...]:
        for name in categories:
            if name not in CATEGORIES:
                raise ValueError(f"unknown question type {shown(name)}; choose from {', '.join(CATEGORIES)}")
        return categories

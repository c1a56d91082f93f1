"""What a job says about its rewards."""

import math
import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from reward.judge_settings import JudgeSettings
from reward.registry import check_name


def _module(name: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise ValueError(f"{name!r} is not the dotted name of a module, such as 'package.module'")
    return name


class LengthUnit(StrEnum):
    """What the length reward counts."""

    TOKENS = "tokens"
    """Tokens of the completion, the stop token included."""
    WORDS = "words"
    """Words of the completion, its tags aside."""
    THINKING_WORDS = "thinking_words"
    """Words in `<think> </think>`; 0 where there is none."""


class LengthSettings(BaseModel):
    """The reward `length`: 1 for a completion of the target length, falling in a line to 0 at `tolerance` from it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    target: int = Field(ge=0)
    """The wanted length."""

    tolerance: int = Field(ge=1)
    """How far from the target, on either side, nothing of the reward is left."""

    unit: LengthUnit = LengthUnit.TOKENS
    """What is counted: the completion's tokens or words, or the words of its thinking."""


class RewardSettings(BaseModel):
    """The reward of a completion is the weighted sum of these functions."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    functions: dict[str, float] = Field(default={"accuracy": 1.0, "format": 1.0}, min_length=1)
    """Weight of each reward function, by built-in name (`accuracy`, `format`, `consistency`, `length`, `majority`,
    `judge`) or as `package.module:function`; 0 records a reward without training on it."""

    length: LengthSettings | None = None
    """What the function `length` aims at; needed with it."""

    judge: JudgeSettings | None = None
    """Whom the function `judge` asks; needed with it."""

    timeout_seconds: float = Field(default=10, gt=0, allow_inf_nan=False)
    """Longest time one call of one reward function may take, in seconds, before its completion is masked out."""

    allowed_modules: list[Annotated[str, AfterValidator(_module)]] = []
    """Modules and packages whose functions may be named in `functions`; built-in ones are always allowed."""

    processes: int = Field(default=1, ge=1)
    """Processes that run functions which are not built in."""

    max_restarts: int = Field(default=5, ge=0)
    """How often the reward actor is replaced in a job when it dies or hangs, before the job fails."""

    max_unscored_in_row: int = Field(default=10, ge=1)
    """Batches in a row of which not one completion could be scored, after which the job fails."""

    overlong_tokens: int = Field(default=0, ge=0)
    """Completions that come so near to the longest one lose reward, in a line down to -1, recorded as `overlong`; 0
    takes nothing."""

    @model_validator(mode="after")
    def _functions_can_be_had(self) -> Self:
        for name, weight in self.functions.items():
            check_name(name, self.allowed_modules)
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {name!r} is {weight}; give a finite number")
        for name, section in (("length", self.length), ("judge", self.judge)):
            if (name in self.functions) != (section is not None):
                raise ValueError(
                    f"functions names {name!r} and there is no section {name!r}: add it"
                    if section is None
                    else f"there is a section {name!r} and functions does not name {name!r}: give it a weight there"
                )
        return self

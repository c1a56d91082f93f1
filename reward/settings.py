"""Settings of the rewards."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from audio_qa.errors import shown
from protocol.frozen_mapping import Frozen, FrozenMapping
from protocol.marks import Names, Resume
from protocol.settings import Settings
from reward.judge_settings import JudgeSettings
from reward.registry import check_name


def _check_module(name: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise ValueError(f"{shown(name)} is not the dotted name of a module, such as 'package.module'")
    return name


class LengthUnit(StrEnum):
    """The unit in which the reward `length` counts."""

    TOKENS = "tokens"
    """Tokens of the completion, the stop token included."""
    WORDS = "words"
    """Words of the completion, without its tags."""
    THINKING_WORDS = "thinking_words"
    """Words in `<think> </think>`; 0 without such a part."""


class LengthSettings(Settings):
    """The reward `length`: 1 at the target length, decreasing linearly to 0 at a distance of `tolerance`."""

    target: int = Field(ge=0)
    """Target length."""

    tolerance: int = Field(ge=1)
    """Distance from the target, on either side, at which the reward reaches 0."""

    unit: LengthUnit = LengthUnit.TOKENS
    """Unit: tokens or words of the completion, or words of its thinking."""


class RewardSettings(Settings):
    """The reward of a completion: the weighted sum of reward functions."""

    functions: Frozen[Annotated[Mapping[Annotated[str, Names.REWARD], float], Field(min_length=1)]] = FrozenMapping(
        {"accuracy": 1.0, "format": 1.0}
    )
    """Weight of each reward function, by built-in name (`accuracy`, `format`, `consistency`, `length`, `majority`,
    `judge`) or as `package.module:function`; 0 records a reward without training on it."""

    length: LengthSettings | None = None
    """Target of the function `length`; required with it."""

    judge: JudgeSettings | None = None
    """Endpoint of the function `judge`; required with it."""

    timeout_seconds: float = Field(default=10, gt=0)
    """Timeout of one call of one reward function, in seconds. A completion whose call times out is masked out."""

    allowed_modules: tuple[Annotated[str, AfterValidator(_check_module), Names.MODULE], ...] = ()
    """Modules and packages whose functions `functions` may name; built-in functions are always allowed."""

    processes: int = Field(default=1, ge=1, le=1024)
    """Number of processes that run custom functions."""

    max_restarts: Annotated[int, Resume.FREE] = Field(default=5, ge=0)
    """Maximum number of restarts of the reward actor after crashes or hangs, before the job fails."""

    max_unscored_in_row: Annotated[int, Resume.FREE] = Field(default=10, ge=1)
    """Number of consecutive batches without a single scored completion, after which the job fails."""

    overlong_tokens: int = Field(default=0, ge=0)
    """Length of the penalty zone below `rollout.max_tokens`, in tokens. Within it the reward decreases linearly, by up
    to 1; the penalty is recorded as `overlong`. 0 disables it."""

    @model_validator(mode="after")
    def _check_functions(self) -> Self:
        for name in self.functions:
            check_name(name, self.allowed_modules)
        for name, section in (("length", self.length), ("judge", self.judge)):
            if (name in self.functions) != (section is not None):
                raise ValueError(
                    f"functions names {name!r}, and there is no section {name!r}: add it"
                    if section is None
                    else f"there is a section {name!r}, and functions does not name {name!r}: add its weight there"
                )
        return self

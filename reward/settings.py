"""What a job says about its rewards."""

import math
import re
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from reward.registry import check_name


def _module(name: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise ValueError(f"{name!r} is not the dotted name of a module, such as 'package.module'")
    return name


class RewardSettings(BaseModel):
    """The reward of a completion is the weighted sum of these functions."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    functions: dict[str, float] = Field(default={"accuracy": 1.0, "format": 1.0}, min_length=1)
    """Weight of each reward function, by built-in name (`accuracy`, `format`) or as `package.module:function`; 0
    records a reward without training on it."""

    timeout_seconds: float = Field(default=10, gt=0, allow_inf_nan=False)
    """Longest time one call of one reward function may take, in seconds, before its completion is masked out."""

    allowed_modules: list[Annotated[str, AfterValidator(_module)]] = []
    """Modules and packages whose functions may be named in `functions`; built-in ones are always allowed."""

    processes: int = Field(default=1, ge=1)
    """Processes that run functions which are not built in."""

    max_restarts: int = Field(default=5, ge=0)
    """How often the reward actor is replaced in a job when it dies or hangs, before the job fails."""

    overlong_tokens: int = Field(default=0, ge=0)
    """Completions that come so near to the longest one lose reward, in a line down to -1; 0 takes nothing."""

    @model_validator(mode="after")
    def _functions_can_be_had(self) -> Self:
        for name, weight in self.functions.items():
            check_name(name, self.allowed_modules)
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {name!r} is {weight}; give a finite number")
        return self

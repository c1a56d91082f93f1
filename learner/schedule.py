"""Learning-rate schedules as pure functions of the step."""

import math
from enum import StrEnum


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    """Falls to zero at the end of the job, in a line."""
    COSINE = "cosine"
    """Falls to zero at the end of the job, in half a cosine."""


def learning_rate(step: int, *, total: int, peak: float, warmup: int, schedule: Schedule) -> float:
    """The rate of optimizer step `step`, counted from 0, of `total`.

    The warm-up rises in a line over `warmup` steps, its first step already above zero.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule is Schedule.CONSTANT:
        return peak
    progress = (step - warmup) / max(1, total - warmup)
    if schedule is Schedule.LINEAR:
        return peak * max(0.0, 1.0 - progress)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

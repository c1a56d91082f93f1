"""Learning-rate schedules as pure functions of the step."""

import math
from enum import StrEnum


class Schedule(StrEnum):
    """Shape of the learning-rate curve after the warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    """Linear decay to zero at the end of the phase."""
    COSINE = "cosine"
    """Half-cosine decay to zero at the end of the phase."""


def learning_rate(step: int, *, total: int, peak: float, warmup: int, schedule: Schedule) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0, of `total`.

    The warm-up is linear over `warmup` steps; its first step is already above zero.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule is Schedule.CONSTANT:
        return peak
    progress = (step - warmup) / max(1, total - warmup)
    if schedule is Schedule.LINEAR:
        return peak * max(0.0, 1.0 - progress)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

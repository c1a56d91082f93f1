"""The texts of a progress display: columns of a step, the result of an evaluation, the time left."""

import math
from collections.abc import Callable, Mapping
from typing import TypeGuard

from orchestrator.display.notation import duration

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("reward", "reward/mean", ".3f"),
    ("accuracy", "reward/accuracy", ".1%"),
    ("KL", "kl/ref", ".4f"),
    ("length", "completion/length_mean", ".1f"),
    ("tokens/s", "tokens/generated_per_second", ",.0f"),
    ("workers", "workers/alive", ".0f"),
)
"""Title, metric and number format of each."""


class TimeLeft:
    """An estimate of the time left, from the time since the first step it was given, evaluations included."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def after(self, metrics: Mapping[str, float], total: int) -> str:
        """Return a duration such as `3m 20s`; empty if it is unknown or the last step is done."""
        step, now = metrics["step"], self._clock()
        if self._first is None:
            self._first = (step, now)
        since = step - self._first[0]
        seconds = (now - self._first[1]) / since if since > 0 else metrics.get("time/step")
        return duration((total - step) * seconds) if is_finite(seconds) and step < total else ""


def is_finite(value: float | None) -> TypeGuard[float]:
    """Return whether a metric has a value that can be shown."""
    return value is not None and math.isfinite(value)


def number_text(value: float | None, form: str) -> str:
    """Return a metric in a number format; a dash if it is missing or not finite."""
    return format(value, form) if is_finite(value) else "–"


def evaluation_text(result: Mapping[str, object]) -> str:
    """Return the accuracies of an evaluation as one line, and how many questions failed."""

    def percent(name: str) -> str:
        value = result.get(name)
        return number_text(value if isinstance(value, int | float) else None, ".1%")

    failed = f", {result['failed']} of {result.get('count')} questions failed" if result.get("failed") else ""
    if "chance_accuracy" in result and result["chance_accuracy"] is None:
        return f"accuracy not reported, the questions have no answers{failed}"
    shuffled = "" if result.get("shuffled_accuracy") is None else f"with other clips {percent('shuffled_accuracy')}, "
    return (
        f"accuracy {percent('accuracy')}, with silence {percent('silence_accuracy')}, {shuffled}"
        f"chance {percent('chance_accuracy')}{failed}"
    )

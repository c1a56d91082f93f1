"""The progress display of a run. Everything goes to stderr: stdout is for the result.

On a terminal it is a live panel (`live_progress`), elsewhere one plain line per step.
"""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from types import TracebackType
from typing import Literal, Protocol, Self, TextIO

from rich.console import Console

from orchestrator.display.live_progress import LiveProgress
from orchestrator.display.notation import printable
from orchestrator.display.progress_text import COLUMNS, TimeLeft, evaluation_text, number_text

OnProgress = Callable[[str, int, int], None]
"""Called with an activity, the number of its parts that are done, and their total."""

Mode = Literal["auto", "plain", "quiet"]


class Phase(StrEnum):
    """Phase of a run."""

    STARTING_WORKERS = "starting workers"
    TRYING_CHECKPOINT = "trying a checkpoint"
    WARM_START = "warm start"
    EVALUATING = "evaluating"
    GENERATING = "generating"
    REWARDING = "rewarding"
    LEARNING = "learning"
    SYNCING = "syncing"
    SAVING = "saving"


# Each step has these phases: a plain log would be full of them.
_WITHIN_STEP = frozenset({Phase.GENERATING, Phase.REWARDING, Phase.LEARNING, Phase.SYNCING, Phase.SAVING})
# Seconds between lines of a phase that counts (`warm start 3/200`).
_PHASE_SECONDS = 10.0


class Progress(AbstractContextManager["Progress"], Protocol):
    """The display of a run. As a context manager it restores the terminal however the run ends."""

    def phase(self, name: str) -> None:
        """Show a new phase: a `Phase`, or any short text."""

    def step(self, metrics: Mapping[str, float], total: int) -> None:
        """Show learner step `metrics["step"]` of `total`. Names are those of the metrics file; any may be missing."""

    def evaluation(self, step: int, result: Mapping[str, object]) -> None:
        """Show an evaluation: `accuracy`, those of its controls, `chance_accuracy` (0 to 1) and `count`."""

    def message(self, text: str) -> None:
        """Show a text that the user should read: a worker was lost, a clip was truncated."""


def make_progress(mode: Mode = "auto", stream: TextIO | None = None) -> Progress:
    """Return the display for a stream, by default stderr: live on a terminal, else plain. `quiet` shows nothing."""
    stream = sys.stderr if stream is None else stream
    if mode == "quiet":
        return QuietProgress()
    console = Console(file=stream)
    if mode == "auto" and stream.isatty() and not console.is_dumb_terminal:
        return LiveProgress(console)
    return PlainProgress(stream)


class QuietProgress:
    """A display that shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def phase(self, name: str) -> None: ...

    def step(self, metrics: Mapping[str, float], total: int) -> None: ...

    def evaluation(self, step: int, result: Mapping[str, object]) -> None: ...

    def message(self, text: str) -> None: ...


class PlainProgress(QuietProgress):
    """One line per step, evaluation, message and phase outside the steps, without colour or control characters."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._time_left = TimeLeft(clock)
        self._phase, self._phase_time = "", 0.0

    def phase(self, name: str) -> None:
        words, now = name.rstrip("0123456789/ "), self._clock()
        if name in _WITHIN_STEP or (words == self._phase and now - self._phase_time < _PHASE_SECONDS):
            return
        self._phase, self._phase_time = words, now
        self._line(name)

    def step(self, metrics: Mapping[str, float], total: int) -> None:
        parts = [f"step {metrics['step']:.0f}/{total}"]
        parts += [f"{title} {number_text(metrics.get(name), form)}" for title, name, form in COLUMNS if name in metrics]
        left = self._time_left.after(metrics, total)
        self._line("  ".join(parts) + (f"  left {left}" if left else ""))

    def evaluation(self, step: int, result: Mapping[str, object]) -> None:
        self._line(f"evaluation at step {step}: {evaluation_text(result)}")

    def message(self, text: str) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self._stream.write(printable(text) + "\n")
        self._stream.flush()


def slow_reporter(progress: Progress, seconds: float = 2.0) -> OnProgress:
    """Return a callback like `reporter` that shows nothing at first: most preparations end before anyone looks."""
    started, report = time.monotonic(), reporter(progress)

    def report_later(activity: str, done: int, total: int) -> None:
        if time.monotonic() - started >= seconds:
            report(activity, done, total)

    return report_later


def reporter(progress: Progress) -> OnProgress:
    """Return a callback that shows the preparation as phases: its start, every tenth and its end."""
    shown: dict[str, int] = {}

    def report(activity: str, done: int, total: int) -> None:
        tenth = done * 10 // max(1, total)
        if shown.get(activity) != tenth:
            shown[activity] = tenth
            progress.phase(f"{activity} {done}/{total}" if total > 1 else activity)

    return report

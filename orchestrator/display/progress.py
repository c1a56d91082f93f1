"""What a foreground run shows while it works. Everything goes to stderr: stdout belongs to the result.

On a terminal a live panel with the phase, the step, the latest numbers and sparklines; elsewhere one plain line a step.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from types import TracebackType
from typing import Literal, Protocol, Self, TextIO, TypeGuard

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrator.display.notation import duration, printable, sparkline

Report = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and how far it goes."""

Mode = Literal["auto", "plain", "quiet"]

_SPARK_WIDTH = 40


class Phase(StrEnum):
    """What a run is busy with."""

    STARTING_WORKERS = "starting workers"
    WARM_START = "warm start"
    EVALUATING = "evaluating"
    GENERATING = "generating"
    REWARDING = "rewarding"
    LEARNING = "learning"
    SYNCING = "syncing"
    SAVING = "saving"


# Every step goes through these: a plain log would be full of them.
_WITHIN_STEP = frozenset({Phase.GENERATING, Phase.REWARDING, Phase.LEARNING, Phase.SYNCING, Phase.SAVING})
# Seconds between lines of a phase that counts (`warm start 3/200`).
_PHASE_SECONDS = 10.0

_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("reward", "reward/mean", ".3f"),
    ("accuracy", "reward/accuracy", ".1%"),
    ("KL", "kl/ref", ".4f"),
    ("length", "completion/length_mean", ".1f"),
    ("tokens/s", "tokens/generated_per_second", ",.0f"),
    ("workers", "workers/alive", ".0f"),
)


class Progress(AbstractContextManager["Progress"], Protocol):
    """What a run tells whoever is watching. As a context manager it gives the terminal back however the run ends."""

    def phase(self, name: str) -> None:
        """The run is busy with `name` from now on: a `Phase`, or any short text."""

    def step(self, metrics: Mapping[str, float], total: int) -> None:
        """A learner step is done, `metrics["step"]` of `total`. Names are those of the metrics file; any may lack."""

    def evaluation(self, step: int, result: Mapping[str, object]) -> None:
        """An evaluation is done: `accuracy`, those of its controls, `chance_accuracy` (0 to 1) and `count`."""

    def message(self, text: str) -> None:
        """Something the user should read: a worker lost, a clip cut."""


def make_progress(mode: Mode = "auto", stream: TextIO | None = None) -> Progress:
    """The display for a stream, by default stderr: live on a terminal, else plain. `quiet` shows nothing."""
    stream = sys.stderr if stream is None else stream
    if mode == "quiet":
        return QuietProgress()
    console = Console(file=stream)
    if mode == "auto" and stream.isatty() and not console.is_dumb_terminal:
        return LiveProgress(console)
    return PlainProgress(stream)


class QuietProgress:
    """Shows nothing."""

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
        parts += [f"{title} {_number(metrics.get(name), form)}" for title, name, form in _COLUMNS if name in metrics]
        left = self._time_left.after(metrics, total)
        self._line("  ".join(parts) + (f"  left {left}" if left else ""))

    def evaluation(self, step: int, result: Mapping[str, object]) -> None:
        self._line(f"evaluation at step {step}: {_evaluation_text(result)}")

    def message(self, text: str) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self._stream.write(printable(text) + "\n")
        self._stream.flush()


class LiveProgress:
    """A panel at the bottom of the terminal; messages and evaluations scroll by above it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._time_left = TimeLeft(clock)
        self._spinner = Spinner("dots", style="cyan")
        self._phase = "starting"
        self._metrics: Mapping[str, float] = {}
        self._total = 0
        self._left = ""
        self._evaluation = ""
        # Tuples that are replaced, never changed: the display's own thread reads them at any moment.
        self._history: dict[str, tuple[float, ...]] = {"reward/mean": (), "reward/accuracy": ()}
        self._end: Text | None = None
        # Printing on the same screen would tear the panel, so what goes to a terminal is shown above it. A stdout that
        # is a file or a pipe is left alone.
        self._live = Live(console=console, get_renderable=self.render, redirect_stdout=sys.stdout.isatty())

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._end = Text("✗ interrupted" if issubclass(kind, KeyboardInterrupt) else "✗ failed", style="bold red")
        else:
            self._end = Text("✓ done", style="bold green")
        self._live.stop()

    def phase(self, name: str) -> None:
        self._phase = printable(name)

    def step(self, metrics: Mapping[str, float], total: int) -> None:
        self._metrics, self._total = dict(metrics), total
        for name, values in self._history.items():
            value = metrics.get(name)
            if _is_number(value):
                self._history[name] = (*values[-999:], value)
        self._left = self._time_left.after(metrics, total)

    def evaluation(self, step: int, result: Mapping[str, object]) -> None:
        self._evaluation = f"at step {step}: {_evaluation_text(result)}"
        count = result.get("count")
        self.message(f"evaluation {self._evaluation}" + (f" ({count} questions)" if count else ""))

    def message(self, text: str) -> None:
        # Text and not a string: square brackets in it are no markup.
        self._console.print(Text(printable(text)))

    def render(self) -> RenderableType:
        """The panel as of now."""
        self._spinner.update(text=Text(self._phase, style="bold"))
        step = int(self._metrics.get("step", 0))
        rows: list[RenderableType] = [self._end or self._spinner]
        if self._total:
            line = Table.grid(padding=(0, 2))
            line.add_row(
                f"step {step}/{self._total}",
                ProgressBar(total=self._total, completed=step, width=24),
                f"{self._left} left" if self._left else "",
            )
            rows += [line, self._numbers(), *self._sparklines()]
        if self._evaluation:
            rows.append(Text.assemble(("evaluation ", "dim"), self._evaluation))
        return Panel(Group(*rows), title="Earshot", title_align="left", border_style="dim", width=self._width())

    def _width(self) -> int:
        return min(self._console.width, 84)

    def _numbers(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title, _, _ in _COLUMNS:
            table.add_column(title, justify="right", no_wrap=True)
        table.add_row(*(_number(self._metrics.get(name), form) for _, name, form in _COLUMNS))
        return table

    def _sparklines(self) -> list[RenderableType]:
        width = max(8, min(_SPARK_WIDTH, self._width() - 34))
        lines: list[RenderableType] = []
        for name, style in (("reward/mean", "blue"), ("reward/accuracy", "magenta")):
            values = self._history[name]
            if len(values) > 1:
                span = f"  {values[0]:.2f} → {values[-1]:.2f}"
                lines.append(Text.assemble((f"{name:<16}", "dim"), (sparkline(values, width), style), span))
        return lines


class TimeLeft:
    """Foretells how long the remaining steps take from the time since the first one it saw, evaluations included."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def after(self, metrics: Mapping[str, float], total: int) -> str:
        """Such as `3m 20s`, or nothing if it cannot be known or the last step is done."""
        step, now = metrics["step"], self._clock()
        if self._first is None:
            self._first = (step, now)
        since = step - self._first[0]
        seconds = (now - self._first[1]) / since if since > 0 else metrics.get("time/step")
        return duration((total - step) * seconds) if _is_number(seconds) and step < total else ""


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _number(value: float | None, form: str) -> str:
    return format(value, form) if _is_number(value) else "–"


def _evaluation_text(result: Mapping[str, object]) -> str:
    def percent(name: str) -> str:
        value = result.get(name)
        return _number(value if isinstance(value, int | float) else None, ".1%")

    shuffled = "" if result.get("shuffled_accuracy") is None else f"with other clips {percent('shuffled_accuracy')}, "
    return (
        f"accuracy {percent('accuracy')}, with silence {percent('silence_accuracy')}, {shuffled}"
        f"chance {percent('chance_accuracy')}"
    )


def reporter(progress: Progress) -> Report:
    """Show preparation as phases, with how far it is: at the start, every tenth and the end."""
    shown: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        tenth = done * 10 // max(1, total)
        if shown.get(what) != tenth:
            shown[what] = tenth
            progress.phase(f"{what} {done}/{total}" if total > 1 else what)

    return report

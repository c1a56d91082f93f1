"""The progress of a run on a terminal: a live panel with phase, step, the latest numbers and sparklines."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table as Grid
from rich.text import Text

from orchestrator.display.notation import printable, sparkline
from orchestrator.display.progress_text import COLUMNS, TimeLeft, evaluation_text, is_finite, number_text
from orchestrator.display.table import Table, figure

_SPARK_WIDTH = 40


class LiveProgress:
    """A panel at the bottom of the terminal; messages and evaluations scroll above it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._time_left = TimeLeft(clock)
        self._spinner = Spinner("dots", style="cyan")
        self._phase = "starting"
        self._metrics: Mapping[str, float] = {}
        self._total = 0
        self._left = ""
        self._evaluation = ""
        # Tuples are replaced, never changed: the display's thread reads them at any time.
        self._history: dict[str, tuple[float, ...]] = {"reward/mean": (), "reward/accuracy": ()}
        self._end: Text | None = None
        # Output on the same screen would tear the panel, so it is shown above it. A stdout that is a file or a pipe is
        # left alone.
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
            if is_finite(value):
                self._history[name] = (*values[-999:], value)
        self._left = self._time_left.after(metrics, total)

    def evaluation(self, step: int, result: Mapping[str, object]) -> None:
        self._evaluation = f"at step {step}: {evaluation_text(result)}"
        count = result.get("count")
        self.message(f"evaluation {self._evaluation}" + (f" ({count} questions)" if count else ""))

    def message(self, text: str) -> None:
        # Text instead of a string: square brackets in it are not markup.
        self._console.print(Text(printable(text)))

    def render(self) -> RenderableType:
        """Return the current panel."""
        self._spinner.update(text=Text(self._phase, style="bold"))
        step = int(self._metrics.get("step", 0))
        rows: list[RenderableType] = [self._end or self._spinner]
        if self._total:
            line = Grid.grid(padding=(0, 2))
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
        last = len(COLUMNS)
        columns = (figure(title, last - i, right=True) for i, (title, _, _) in enumerate(COLUMNS))
        table = Table(*columns, note=False)
        table.add(*(number_text(self._metrics.get(name), form) for _, name, form in COLUMNS))
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

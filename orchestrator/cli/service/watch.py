"""`earshot watch`: the learning curves, workers and events of a job while it runs.

Shows a live panel on a terminal, and prints one line for each step elsewhere. Watching does not affect the job.
"""

import sys
import time
from collections import deque

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from orchestrator.cli.service.connection import Outage, is_away
from orchestrator.cli.service.tables import age, number, state_text, waiting_text, workers_table
from orchestrator.client import ClientError, EarshotClient, JobDetail, WorkerPage
from orchestrator.display.notation import printable, sparkline
from orchestrator.display.progress_text import TimeLeft, evaluation_text
from orchestrator.display.table import Table, figure
from orchestrator.run.events import EventKind
from orchestrator.schemas.api import EventView
from orchestrator.schemas.job_state import ENDED

_CURVES = (
    ("reward/mean", "blue"),
    ("reward/accuracy", "magenta"),
    ("eval/accuracy", "green"),
    ("completion/length_mean", "yellow"),
)
_NUMBERS = (
    ("reward", "reward/mean", ".3f"),
    ("accuracy", "reward/accuracy", ".1%"),
    ("KL", "kl/ref", ".4f"),
    ("entropy", "entropy", ".3f"),
    ("staleness", "staleness/mean", ".2f"),
    ("tokens/s", "tokens/generated_per_second", ",.0f"),
    ("s/step", "time/step", ".1f"),
)
_POINTS = 120
_EVENTS_SHOWN = 6
_MOST_WORKERS = 12
# So frequent that they would push out the other events.
_QUIET = frozenset(
    {EventKind.TRUNCATED_CLIP, EventKind.FAILED_QUESTION, EventKind.ROLLOUT_ATTEMPT_FAILED, EventKind.ATTEMPT}
)


class Watched:
    """The current view of a job; `update` fetches what is new."""

    def __init__(self, client: EarshotClient, job_id: str) -> None:
        self._client, self._id = client, job_id
        self.job: JobDetail = client.job(job_id)
        self.workers: WorkerPage = client.workers(job_id)
        self.curves: dict[str, list[float]] = {}
        self.steps: list[dict[str, float | None]] = []
        """Metrics of the steps that the last update added."""
        self.events: deque[EventView] = deque(maxlen=_EVENTS_SHOWN)
        self.problem: ClientError | None = None
        """Why the last update failed."""
        self._cursor: str | None = None
        self._last_step: int | None = None

    def update(self) -> None:
        """Fetch what is new. While the service is away, `problem` has the cause."""
        if self.problem is None:
            self.steps = []  # otherwise those of the update that failed have not been shown
        try:
            self.job = self._client.job(self._id)
            self.workers = self._client.workers(self._id)
            found = self._client.metrics(self._id, since_step=self._last_step)
            self.steps, self._last_step = [*self.steps, *found.items], found.last_step
            # Metrics of the whole run, so that a curve keeps its beginning in a long run.
            whole = self._client.metrics(self._id, names=[name for name, _ in _CURVES], points=_POINTS)
            self.curves = {
                name: [value for row in whole.items if (value := row.get(name)) is not None] for name, _ in _CURVES
            }
            self._read_events()
            self.problem = None
        except ClientError as error:
            if not is_away(error):
                raise
            self.problem = error

    def _read_events(self) -> None:
        tail = 200 if self._cursor is None else None
        while True:
            page = self._client.events(self._id, cursor=self._cursor, tail=tail)
            for event in page.items:
                self._cursor, tail = event.cursor, None
                if event.kind not in _QUIET:
                    self.events.append(event)
            if page.next_cursor is None:
                return


def watch(client: EarshotClient, job_id: str, every: float) -> JobDetail:
    """Show a job until it ends, and return it."""
    watched, console = Watched(client, job_id), Console()
    if not console.is_terminal or console.is_dumb_terminal:
        return _plain(watched, every)
    left = TimeLeft(time.monotonic)
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            watched.update()
            live.update(panel(watched, left, console.width), refresh=True)
            if watched.job.state in ENDED:
                return watched.job
            time.sleep(every)


def _plain(watched: Watched, every: float) -> JobDetail:
    shown, state, place, outage = deque[str](maxlen=_EVENTS_SHOWN), None, "", Outage()
    while True:
        watched.update()
        if watched.problem is not None:
            outage.begin(watched.problem)
            continue
        outage.end()
        for event in watched.events:
            if event.cursor not in shown and event.kind != EventKind.STATE:
                shown.append(event.cursor)
                _print(event_text(event))
        for row in watched.steps:
            parts = [f"step {row['step']:.0f}/{watched.job.progress.steps}"]
            parts += [f"{title} {number(row[name], form)}" for title, name, form in _NUMBERS if name in row]
            _print("  ".join(parts))
        if watched.job.state is not state:
            state = watched.job.state
            _print(f"{state}{': ' + watched.job.cause.splitlines()[0] if watched.job.cause else ''}")
        if waiting_text(watched.job) != place:
            place = waiting_text(watched.job)
            _print(place or "no longer in the queue")
        if state in ENDED:
            return watched.job
        time.sleep(every)


def _print(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def panel(watched: Watched, left: TimeLeft, width: int) -> RenderableType:
    """Return the panel, within the width of the terminal."""
    job, progress = watched.job, watched.job.progress
    width = min(width, 100)
    head = Grid.grid(padding=(0, 2))
    remaining = left.after({"step": progress.step, **progress.metrics}, progress.steps) if progress.step else ""
    head.add_row(
        state_text(job),
        f"step {progress.step}/{progress.steps}",
        ProgressBar(total=max(1, progress.steps), completed=progress.step, width=24),
        f"{remaining} left" if remaining and job.state not in ENDED else f"{age(job.created_at)} old",
    )
    rows: list[RenderableType] = [head]
    if job.waiting is not None:
        rows.append(Text(printable(waiting_text(job))))
    if progress.metrics:
        rows += [_numbers(progress.metrics), *_curves(watched.curves, width)]
    if progress.evaluation is not None and progress.evaluation.accuracy is not None:
        at = progress.evaluation
        shuffled = "" if at.shuffled_accuracy is None else f"with shuffled clips {at.shuffled_accuracy:.1%}, "
        rows.append(
            Text.assemble(
                ("evaluation ", "dim"),
                f"at step {at.step}: accuracy {number(at.accuracy, '.1%')}, with silence "
                f"{number(at.silence_accuracy, '.1%')}, {shuffled}chance {number(at.chance_accuracy, '.1%')}",
            )
        )
    elif progress.evaluation is not None:
        at = progress.evaluation
        rows.append(Text.assemble(("evaluation ", "dim"), f"at step {at.step}: {evaluation_text(at.model_dump())}"))
    if watched.workers.items:
        rows += [Text(""), workers_table(watched.workers.items[:_MOST_WORKERS], note=False)]
        more = len(watched.workers.items) - _MOST_WORKERS
        rows += [Text(f"and {more} more", style="dim")] if more > 0 else []
    if watched.events:
        rows += [
            Text(""),
            *(Text(event_text(event), style="dim", no_wrap=True, overflow="ellipsis") for event in watched.events),
        ]
    if job.cause:
        rows += [Text(""), Text("\n".join(printable(line) for line in job.cause.splitlines()[:8]))]
    if watched.problem is not None:
        rows += [Text(""), Text(printable(str(watched.problem)), style="bold red")]
    # The id first: a title that is too long loses its end.
    title = Text(f"{job.id} · {printable(job.name)}")
    return Panel(Group(*rows), title=title, title_align="left", border_style="dim", width=width)


def event_text(event: EventView) -> str:
    """Return an event as one line."""
    detail = " ".join(
        f"{name}={value}" for name, value in (event.model_extra or {}).items() if value is not None and name != "id"
    )
    return printable(f"{(event.time or '')[11:19]} {event.kind} {detail}")


def _numbers(metrics: dict[str, float]) -> Table:
    last = len(_NUMBERS)
    columns = (figure(title, last - i, right=True) for i, (title, _, _) in enumerate(_NUMBERS))
    table = Table(*columns, note=False)
    table.add(*(number(metrics.get(name), form) for _, name, form in _NUMBERS))
    return table


def _curves(curves: dict[str, list[float]], width: int) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for name, style in _CURVES:
        values = curves.get(name, [])
        if len(values) > 1:
            span = f"  {values[0]:.3g} → {values[-1]:.3g}"
            lines.append(
                Text.assemble(
                    (f"{name:<24}", "dim"), (sparkline(values, max(8, width - 52)), style), span, no_wrap=True
                )
            )
    return lines

"""Tables of jobs, workers, metrics and samples. Texts of a job are escaped: they cannot control the terminal."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.display.notation import duration, printable, sparkline
from orchestrator.display.progress_text import evaluation_text
from orchestrator.schemas.api import JobDetail, JobView, MetricsView, SampleView, WorkerView
from orchestrator.schemas.job_state import JobState

_STYLES = {
    JobState.QUEUED: "dim",
    JobState.STARTING: "cyan",
    JobState.RUNNING: "bold cyan",
    JobState.PAUSED: "yellow",
    JobState.RECOVERING: "bold yellow",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "bold red",
    JobState.CANCELLED: "dim",
}

_FOLDED = frozenset({"name", "owner", "cause", "node", "question", "answer", "completion"})
"""Columns with texts of any length, which wrap; the others keep the width of their content."""


def jobs_table(jobs: Sequence[JobView]) -> Table:
    """Return a table with one row for each job."""
    table = _table("job", "name", "state", "step", "reward", "accuracy", "workers", "owner", "age")
    for job in jobs:
        metrics = job.progress.metrics
        table.add_row(
            job.id,
            printable(job.name),
            state_text(job),
            f"{job.progress.step}/{job.progress.steps}",
            number(metrics.get("reward/mean"), ".3f"),
            number(metrics.get("reward/accuracy"), ".1%"),
            f"{job.workers.alive}/{job.workers.target}",
            Text(printable(job.owner)),
            age(job.created_at),
        )
    return table


def job_table(job: JobDetail) -> Table:
    """Return a table with everything about one job, one fact in each row."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows: list[tuple[str, RenderableType]] = [
        ("job", job.id),
        ("name", printable(job.name)),
        ("state", state_text(job)),
        ("progress", f"step {job.progress.step} of {job.progress.steps} ({job.progress.fraction:.0%})"),
        ("workers", f"{job.workers.alive} alive, target {job.workers.target}"),
        ("owner", Text(printable(job.owner))),
        ("priority", str(job.priority)),
        ("restarts", f"{job.restarts} of at most {job.max_restarts}"),
        ("GPUs", f"{job.gpus:g}"),
        ("run directory", Text(printable(job.run_dir))),
    ]
    if job.progress.evaluation is not None and job.progress.evaluation.accuracy is not None:
        at = job.progress.evaluation
        rows.append(("evaluation", f"accuracy {at.accuracy:.1%} at step {at.step}"))
    elif job.progress.evaluation is not None:
        at = job.progress.evaluation
        rows.append(("evaluation", f"{evaluation_text(at.model_dump())} at step {at.step}"))
    if job.cause:
        rows.append(("cause", Text("\n".join(printable(line) for line in job.cause.splitlines()))))
    for name, value in sorted(job.progress.metrics.items()):
        rows.append((name, f"{value:.5g}"))
    for change in job.history:
        cause = f": {printable(change.cause.splitlines()[0])}" if change.cause else ""
        rows.append((f"{change.at.astimezone():%Y-%m-%d %H:%M:%S}", Text(f"{change.to_state}{cause}")))
    for fact in rows:
        table.add_row(*fact)
    return table


def workers_table(workers: Sequence[WorkerView]) -> Table:
    """Return a table with one row for each worker."""
    table = _table("worker", "state", "for", "restarts", "node", "pid", "cause")
    for worker in workers:
        table.add_row(
            worker.name,
            worker.state,
            age(worker.since) if worker.since else "–",
            str(worker.restarts),
            Text(printable(worker.node or "–")[:16]),
            str(worker.pid or "–"),
            Text(printable(worker.cause or "")),
        )
    return table


def metrics_table(metrics: MetricsView) -> Table:
    """Return a table with one row for each metric: its curve, minimum, maximum and last value."""
    table = _table("metric", "curve", "minimum", "maximum", "last")
    names = [name for name in metrics.names if any(name in row for row in metrics.items)]
    for name in names:
        values = [value for row in metrics.items if (value := row.get(name)) is not None]
        least = [value for row in metrics.minima or metrics.items if (value := row.get(name)) is not None]
        greatest = [value for row in metrics.maxima or metrics.items if (value := row.get(name)) is not None]
        if values:
            ends = (min(least), max(greatest), values[-1])
            table.add_row(name, sparkline(values, 24), *(number(value, ".4g") for value in ends))
    return table


def samples_table(samples: Sequence[SampleView]) -> Table:
    """Return a table with one row for each completion."""
    table = _table("sample", "step", "question", "answer", "completion", "reward", "advantage")
    for sample in samples:
        table.add_row(
            sample.id,
            str(sample.step),
            Text(printable(sample.question)),
            Text(printable(sample.answer)),
            Text(printable(sample.text)),
            number(sample.reward, ".2f") if sample.valid else Text("invalid", style="red"),
            number(sample.advantage, "+.2f"),
        )
    return table


def state_text(job: JobView) -> Text:
    """Return the state of a job in its colour."""
    text = "cancelling" if job.cancelling else job.state.value
    return Text(text, style=_STYLES[job.state])


def number(value: float | None, form: str) -> str:
    """Return a formatted number, or a dash for None."""
    return "–" if value is None else format(value, form)


def age(since: datetime) -> str:
    """Return the time since then, in words."""
    return duration((datetime.now(UTC) - since).total_seconds())


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in titles:
        table.add_column(title, no_wrap=title not in _FOLDED, overflow="fold")
    return table

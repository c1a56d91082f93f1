"""Tables of jobs, workers, metrics and samples. Texts of a job are escaped: they cannot control the terminal."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.text import Text

from orchestrator.display.notation import duration, sparkline
from orchestrator.display.progress_text import evaluation_text
from orchestrator.display.table import Facts, Table, figure, key, text
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


def jobs_table(jobs: Sequence[JobView]) -> Table:
    """Return a table with one row for each job; with the places in the queue if any job waits there."""
    queued = any(job.waiting is not None for job in jobs)
    columns = [
        key("job"),
        text("name", 2),
        key("state"),
        *([figure("place", 7, right=True)] if queued else []),
        figure("step", 6),
        figure("reward", 2),
        figure("accuracy", 1),
        figure("workers", 4),
        text("owner", 1),
        figure("age", 3),
    ]
    table = Table(*columns)
    for job in jobs:
        metrics = job.progress.metrics
        table.add(
            job.id,
            job.name,
            state_text(job),
            *([str(job.waiting.position) if job.waiting else ""] if queued else []),
            f"{job.progress.step}/{job.progress.steps}",
            number(metrics.get("reward/mean"), ".3f"),
            number(metrics.get("reward/accuracy"), ".1%"),
            f"{job.workers.alive}/{job.workers.target}",
            job.owner,
            age(job.created_at),
        )
    return table


def job_facts(job: JobDetail) -> Facts:
    """Return everything about one job, one fact in each row."""
    facts = Facts()
    facts.add("job", job.id)
    facts.add("name", job.name)
    facts.add("state", "cancelling" if job.cancelling else job.state.value, _STYLES[job.state])
    if job.waiting is not None:
        facts.add("waits", waiting_text(job))
    known = "" if job.progress.current else ", as last known: the files of the run cannot be read now"
    facts.add("progress", f"step {job.progress.step} of {job.progress.steps} ({job.progress.fraction:.0%}){known}")
    facts.add("workers", f"{job.workers.alive} alive, target {job.workers.target}")
    facts.add("owner", job.owner)
    facts.add("priority", str(job.priority))
    facts.add("restarts", f"{job.restarts} of at most {job.max_restarts}")
    facts.add("GPUs", f"{job.gpus:g}")
    facts.add("run directory", job.run_dir)
    if job.progress.evaluation is not None and job.progress.evaluation.accuracy is not None:
        at = job.progress.evaluation
        facts.add("evaluation", f"accuracy {at.accuracy:.1%} at step {at.step}")
    elif job.progress.evaluation is not None:
        at = job.progress.evaluation
        facts.add("evaluation", f"{evaluation_text(at.model_dump())} at step {at.step}")
    if job.cause:
        facts.add("cause", "\n".join(job.cause.splitlines()))
    for name, value in sorted(job.progress.metrics.items()):
        facts.add(name, f"{value:.5g}")
    for change in job.history:
        cause = f": {change.cause.splitlines()[0]}" if change.cause else ""
        facts.add(local_time(change.at, seconds=True), f"{change.to_state}{cause}")
    return facts


def state_in_words(job: JobView) -> str:
    """Return the state of a job, and its place in the queue if it waits there."""
    return f"{job.state}, {waiting_text(job)}" if job.waiting is not None else job.state.value


def waiting_text(job: JobView) -> str:
    """Return the place of a job in the queue and the reason why it waits; empty if it does not."""
    return "" if job.waiting is None else f"place {job.waiting.position} in the queue: {job.waiting.reason}"


def workers_table(workers: Sequence[WorkerView], *, note: bool = True) -> Table:
    """Return a table with one row for each worker."""
    table = Table(
        key("worker"),
        key("state"),
        figure("for", 3),
        figure("restarts", 2),
        text("node", 1),
        figure("pid", 1),
        text("cause", 2),
        note=note,
    )
    for worker in workers:
        table.add(
            worker.name,
            worker.state,
            age(worker.since) if worker.since else "–",
            str(worker.restarts),
            worker.node or "–",
            str(worker.pid or "–"),
            worker.cause or "",
        )
    return table


def metrics_table(metrics: MetricsView) -> Table:
    """Return a table with one row for each metric: its curve, minimum, maximum and last value."""
    table = Table(key("metric"), figure("curve", 1), figure("minimum", 2), figure("maximum", 3), figure("last", 4))
    names = [name for name in metrics.names if any(name in row for row in metrics.items)]
    for name in names:
        values = [value for row in metrics.items if (value := row.get(name)) is not None]
        least = [value for row in metrics.minima or metrics.items if (value := row.get(name)) is not None]
        greatest = [value for row in metrics.maxima or metrics.items if (value := row.get(name)) is not None]
        if values:
            ends = (min(least), max(greatest), values[-1])
            table.add(name, sparkline(values, 24), *(number(value, ".4g") for value in ends))
    return table


def samples_table(samples: Sequence[SampleView]) -> Table:
    """Return a table with one row for each completion."""
    table = Table(
        key("sample"),
        figure("step", 3),
        text("question", 2),
        text("answer", 1),
        text("completion"),
        figure("reward", 2),
        figure("advantage", 1),
    )
    for sample in samples:
        table.add(
            sample.id,
            str(sample.step),
            sample.question,
            sample.answer,
            sample.text,
            number(sample.reward, ".2f") if sample.valid else Text("invalid", style="red"),
            number(sample.advantage, "+.2f"),
        )
    return table


def state_text(job: JobView) -> Text:
    """Return the state of a job in its colour."""
    return Text("cancelling" if job.cancelling else job.state.value, style=_STYLES[job.state])


def number(value: float | None, form: str) -> str:
    """Return a formatted number, or a dash for None."""
    return "–" if value is None else format(value, form)


def age(since: datetime) -> str:
    """Return the time since then, in words."""
    return duration((datetime.now(UTC) - since).total_seconds())


def local_time(at: datetime | None, *, seconds: bool = False) -> str:
    """Return a time in the zone of this machine, or a dash for None."""
    return f"{at.astimezone():{'%Y-%m-%d %H:%M:%S' if seconds else '%Y-%m-%d %H:%M'}}" if at else "–"

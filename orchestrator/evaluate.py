"""`earshot evaluate`: a model's accuracy on questions, with the clips, with silence and with other questions' clips."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from audio_qa.scoring.score import GROUPINGS
from orchestrator.driver import cluster, end_all, worker_settings
from orchestrator.evaluation import Evaluation, Generate
from orchestrator.evaluation_job import ask, told
from orchestrator.preflight import Prepared
from orchestrator.progress import Progress
from orchestrator.scores import show_scores
from protocol.rollout import FailedQuestion, Group, RolloutRequest, Sampling
from rollout_workers.pool import RolloutPool


def evaluate_model(prepared: Prepared, progress: Progress, *, predictions: Path | None = None) -> dict[str, Any]:
    """Start the job's rollout workers, ask all held-out questions, and end the workers.

    Args:
        predictions: a file to write the predictions to, in the benchmark's own format.

    Returns plain data: the figures, the benchmark's scores and every answer.
    """
    with cluster(prepared.spec):
        result = asyncio.run(_evaluate(prepared, progress))
    return told(prepared, result, predictions)


async def _evaluate(prepared: Prepared, progress: Progress) -> Evaluation:
    async with _workers(prepared, progress) as pool:
        return await ask(prepared, pool, progress)


@asynccontextmanager
async def answering(prepared: Prepared, progress: Progress) -> AsyncIterator[Generate]:
    """The job's rollout workers, up and with the weights of its model's folder; they end with the block."""
    async with _workers(prepared, progress) as pool:
        progress.phase("evaluating")

        async def generate(requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Group | FailedQuestion]:
            return await pool.generate(requests, sampling, by_rule=False)

        yield generate


@asynccontextmanager
async def _workers(prepared: Prepared, progress: Progress) -> AsyncIterator[RolloutPool]:
    rollout = prepared.spec.rollout
    pool = RolloutPool(worker_settings(prepared), rollout.limits, gpus_per_worker=rollout.gpus)
    try:
        progress.phase("starting workers")
        await pool.start(rollout.workers)
        yield pool
    finally:
        await end_all([pool])


def show_evaluation(result: Mapping[str, Any], console: Console) -> None:
    """Print an evaluation as a table: in total and by group; then its benchmark's scores."""
    table = Table(title=f"Accuracy of {result['model']}", box=None)
    for name in ("", "audio", "silence", "shuffled", "chance", "questions", "failed"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=bool(name))
    table.add_row("all", *_figures(result))
    for grouping in GROUPINGS:
        rows = [(name, row) for name, row in result[grouping].items() if name != "all"]
        if rows:
            table.add_row(grouping.removeprefix("by_").replace("_", "-"), style="bold")
        for name, row in rows:
            table.add_row(name, *_figures(row))
    console.print(table)
    show_scores(result, console)


def _figures(row: Mapping[str, Any]) -> list[str]:
    keys = ("accuracy", "silence_accuracy", "shuffled_accuracy", "chance_accuracy")
    shares = ["-" if row[key] is None else f"{row[key]:.1%}" for key in keys]
    return [*shares, str(row["count"]), str(row["failed"])]

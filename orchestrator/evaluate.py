"""`earshot evaluate`: a model's accuracy on questions, with the clips and with silence."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import write_predictions
from orchestrator.driver import cluster, end_all, worker_settings
from orchestrator.evaluation import Evaluation, Generate, evaluate
from orchestrator.preflight import Prepared
from orchestrator.progress import Progress
from orchestrator.scores import held_out_set, predictions_of, scored, show_scores
from protocol.rollout import FailedQuestion, Group, RolloutRequest, Sampling
from rollout_workers.pool import RolloutPool


def evaluate_model(
    prepared: Prepared,
    progress: Progress,
    *,
    samples: int = 1,
    temperature: float = 0.0,
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Start the job's rollout workers, ask all held-out questions, and end the workers.

    Args:
        samples, temperature: as in `orchestrator.evaluation.evaluate`.
        predictions: a file to write the predictions to, in the benchmark's own format.

    Returns plain data: the figures, the benchmark's scores and every answer.
    """
    spec = prepared.spec
    with cluster(spec):
        result = asyncio.run(_evaluate(prepared, progress, samples, temperature))
    found = held_out_set(spec, prepared.held_out)
    if predictions is not None:
        rule = rule_of(found.source.format)
        write_predictions(predictions, found, predictions_of(found, result.answers, rule), rule)
    scores = scored(found, result.answers, seed=spec.seed)
    return {"model": spec.model.path, "data": spec.data.evaluation, **result.as_event(), **scores}


async def _evaluate(prepared: Prepared, progress: Progress, samples: int, temperature: float) -> Evaluation:
    spec = prepared.spec
    async with answering(prepared, progress) as generate:
        return await evaluate(
            generate,
            prepared.held_out,
            spec.data.prompt,
            spec.rollout.max_tokens,
            samples=samples,
            temperature=temperature,
        )


@asynccontextmanager
async def answering(prepared: Prepared, progress: Progress) -> AsyncIterator[Generate]:
    """The job's rollout workers, up and with the weights of its model's folder; they end with the block."""
    spec = prepared.spec
    pool = RolloutPool(worker_settings(prepared), spec.rollout.limits, gpus_per_worker=spec.rollout.gpus)
    try:
        progress.phase("starting workers")
        await pool.start(spec.rollout.workers)
        progress.phase("evaluating")

        async def generate(requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Group | FailedQuestion]:
            return await pool.generate(requests, sampling, by_rule=False)

        yield generate
    finally:
        await end_all([pool])


def show_evaluation(result: dict[str, Any], console: Console) -> None:
    """Print an evaluation as a table: in total, by task and by category."""
    table = Table(title=f"Accuracy of {result['model']}")
    for name in ("", "audio", "silence", "chance", "questions", "failed"):
        table.add_column(name, justify="left" if not name else "right")
    parts = [(name, row) for by in ("by_task", "by_category") for name, row in result[by].items()]
    rows = [("all", result), *((name, row) for name, row in parts if name != "all")]
    for name, row in rows:
        shares = (f"{row[key]:.1%}" for key in ("accuracy", "silence_accuracy", "chance_accuracy"))
        table.add_row(name, *shares, str(row["count"]), str(row["failed"]))
    console.print(table)
    show_scores(result, console)

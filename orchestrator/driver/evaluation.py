"""A job that only evaluates (`method: evaluate`), and `earshot evaluate`, which shares its parts.

Invariant: `evaluation.json` is written last: a run that has it is done.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import submission_name, write_predictions
from orchestrator.display.progress import Progress
from orchestrator.driver.session import failing_after_start, ray_session, stop_all, worker_settings
from orchestrator.evaluation.evaluate import Evaluation, evaluate_held_out
from orchestrator.evaluation.scores import held_out_set, predictions_of, scored
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.schemas.job_state import JobState
from orchestrator.training.control import Control
from protocol.calls import Generate
from rollout_workers.pool.pool import RolloutPool


async def run_evaluation(
    prepared: Prepared,
    run: RunDirectory,
    progress: Progress,
    pool: RolloutPool,
    control: Control,
    workers: Awaitable[None],
) -> None:
    """Run the job, on workers that are up once `workers` is done. It can be paused only before the first question."""
    await workers
    run.append_event(EventKind.STATE, state=JobState.RUNNING)
    await control.wait_while_paused()
    result = await ask_held_out(prepared, pool, progress)
    run.append_event(EventKind.EVALUATION, step=0, result=result.as_event())
    progress.evaluation(0, result.as_event())
    run.write_evaluation(await asyncio.to_thread(evaluation_result, prepared, result, run.path))


async def ask_held_out(prepared: Prepared, pool: RolloutPool, progress: Progress) -> Evaluation:
    """Ask workers that are up a job's held-out questions, as its `evaluation` section says."""
    progress.phase("evaluating")
    return await evaluate_held_out(pool.generate, prepared.spec, prepared.held_out)


def evaluation_result(prepared: Prepared, result: Evaluation, predictions: Path | None) -> dict[str, Any]:
    """Return the figures, the benchmark's scores and every answer as plain data.

    Args:
        predictions: file for the predictions in the benchmark's format, or a folder for it.
    """
    spec = prepared.spec
    held_out = held_out_set(spec, prepared.held_out)
    if predictions is not None:
        rule = rule_of(held_out.source.format)
        if predictions.is_dir():
            predictions /= submission_name(held_out.source.location, rule)
        write_predictions(predictions, held_out, predictions_of(held_out, result.answers, rule), rule)
    sampling = {"samples": spec.evaluation.samples, "temperature": spec.evaluation.temperature}
    scores = scored(held_out, result.answers, seed=spec.seed)
    return {"model": spec.model.path, "data": spec.data.evaluation, **sampling, **result.as_event(), **scores}


def evaluate_model(prepared: Prepared, progress: Progress, *, predictions: Path | None = None) -> dict[str, Any]:
    """Start the job's rollout workers, ask all held-out questions, and end the workers.

    Args:
        predictions: file for the predictions in the benchmark's format.

    Returns plain data: the figures, the benchmark's scores and every answer.
    """
    with failing_after_start(), ray_session(prepared.spec):
        result = asyncio.run(_evaluate(prepared, progress))
    return evaluation_result(prepared, result, predictions)


async def _evaluate(prepared: Prepared, progress: Progress) -> Evaluation:
    async with _workers(prepared, progress) as pool:
        return await ask_held_out(prepared, pool, progress)


@asynccontextmanager
async def started_workers(prepared: Prepared, progress: Progress) -> AsyncIterator[Generate]:
    """Start the job's rollout workers with the weights of its model folder; they end with the block."""
    async with _workers(prepared, progress) as pool:
        progress.phase("evaluating")
        yield partial(pool.generate, round_robin=False)


@asynccontextmanager
async def _workers(prepared: Prepared, progress: Progress) -> AsyncIterator[RolloutPool]:
    rollout = prepared.spec.rollout
    pool = RolloutPool(worker_settings(prepared), rollout.limits, gpus_per_worker=rollout.gpus)
    try:
        progress.phase("starting workers")
        await pool.start(rollout.workers)
        yield pool
    finally:
        await stop_all([pool])

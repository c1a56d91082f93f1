"""A job that only evaluates, `method: evaluate`, and what `earshot evaluate` has in common with it.

Invariant: `evaluation.json` is there once everything else is: a job that has it is done.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import submission_name, write_predictions
from orchestrator.display.progress import Progress
from orchestrator.driver.session import cluster, end_all, worker_settings
from orchestrator.evaluation.evaluate import Evaluation, Generate, evaluate
from orchestrator.evaluation.scores import held_out_set, predictions_of, scored
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from protocol.rollout import FailedQuestion, Group, RolloutRequest, Sampling
from rollout_workers.pool.pool import RolloutPool


async def run_evaluation(
    prepared: Prepared,
    run: RunDirectory,
    progress: Progress,
    pool: RolloutPool,
    control: Control,
    workers: Awaitable[None],
) -> None:
    """The whole job, on workers that are up once `workers` is done. It can be paused before it asks, not later."""
    await workers
    run.append_event("state", state="running")
    await control.between_steps()
    result = await ask(prepared, pool, progress)
    run.append_event("evaluation", step=0, result=result.as_event())
    progress.evaluation(0, result.as_event())
    run.write_evaluation(await asyncio.to_thread(evaluation_result, prepared, result, run.path))


async def ask(prepared: Prepared, pool: RolloutPool, progress: Progress) -> Evaluation:
    """Ask a job's held-out questions as its `evaluation` section says, of workers that are up."""
    spec, section = prepared.spec, prepared.spec.evaluation
    progress.phase("evaluating")

    async def generate(requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Group | FailedQuestion]:
        return await pool.generate(requests, sampling, by_rule=spec.deterministic)

    return await evaluate(
        generate,
        prepared.held_out,
        spec.data.prompt,
        spec.rollout.max_tokens,
        samples=section.samples,
        temperature=section.temperature,
        controls=section.controls,
        seed=spec.seed,
    )


def evaluation_result(prepared: Prepared, result: Evaluation, predictions: Path | None) -> dict[str, Any]:
    """The figures, the benchmark's scores and every answer as plain data.

    Args:
        predictions: a file to write the predictions to, in the benchmark's own format, or a folder for one.
    """
    spec = prepared.spec
    found = held_out_set(spec, prepared.held_out)
    if predictions is not None:
        rule = rule_of(found.source.format)
        if predictions.is_dir():
            predictions /= submission_name(found.source.location, rule)
        write_predictions(predictions, found, predictions_of(found, result.answers, rule), rule)
    asked = {"samples": spec.evaluation.samples, "temperature": spec.evaluation.temperature}
    scores = scored(found, result.answers, seed=spec.seed)
    return {"model": spec.model.path, "data": spec.data.evaluation, **asked, **result.as_event(), **scores}


def evaluate_model(prepared: Prepared, progress: Progress, *, predictions: Path | None = None) -> dict[str, Any]:
    """Start the job's rollout workers, ask all held-out questions, and end the workers.

    Args:
        predictions: a file to write the predictions to, in the benchmark's own format.

    Returns plain data: the figures, the benchmark's scores and every answer.
    """
    with cluster(prepared.spec):
        result = asyncio.run(_evaluate(prepared, progress))
    return evaluation_result(prepared, result, predictions)


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

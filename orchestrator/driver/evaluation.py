"""A job that only evaluates (`method: evaluate`), and `earshot evaluate`, which shares its parts.

Invariant: `evaluation.json` is written last: a run that has it is done.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from audio_qa.errors import one_line
from audio_qa.formats.question_set import QuestionSet
from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import submission_name, write_predictions
from orchestrator.display.progress import Progress
from orchestrator.driver.session import failing_after_start, ray_session, stop_all, worker_settings
from orchestrator.evaluation.evaluate import Evaluation, evaluate_held_out
from orchestrator.evaluation.scores import predictions_of, scored
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.schemas.job_state import JobState
from orchestrator.training.control import Control
from orchestrator.training.evaluation_record import record_evaluation, show_problem
from protocol.calls import Generate
from rollout_workers.pool.pool import RolloutPool

_SHOWN_EVENTS = frozenset({EventKind.WORKER_PENDING, EventKind.WORKER_LOST, EventKind.ROLLOUT_ATTEMPT_FAILED})


async def run_evaluation(
    prepared: Prepared,
    run: RunDirectory,
    progress: Progress,
    pool: RolloutPool,
    control: Control,
    workers: Awaitable[None],
) -> None:
    """Run the job, on workers that are up once `workers` is done. It can be paused only before the first question.

    Raises NothingAskedError, after its events were written, if no question could be asked.
    """
    await workers
    run.append_event(EventKind.STATE, state=JobState.RUNNING)
    await control.wait_while_paused()
    control.refuse(CommandKind.PAUSE, "a job that only evaluates can be paused before its first question only")
    result = await ask_held_out(prepared, pool, progress)
    record_evaluation(run, progress, 0, result)
    result.require_asked()
    await asyncio.to_thread(write_predictions_of, prepared, result, run.path)
    run.write_evaluation(await asyncio.to_thread(evaluation_result, prepared, result))


async def ask_held_out(prepared: Prepared, pool: RolloutPool, progress: Progress) -> Evaluation:
    """Ask workers that are up a job's held-out questions, as its `evaluation` section says."""
    progress.phase("evaluating")
    return await evaluate_held_out(pool.generate, prepared.spec, prepared.held_out)


def write_predictions_of(prepared: Prepared, result: Evaluation, path: Path) -> None:
    """Write the predictions of an evaluation in the benchmark's format.

    Args:
        path: the file, or a folder for it.
    """
    held_out = _held_out(prepared)
    rule = rule_of(held_out.source.format)
    if path.is_dir():
        path /= submission_name(held_out.source.location, rule)
    write_predictions(path, held_out, predictions_of(held_out, result.answers, rule), rule)


def evaluation_result(prepared: Prepared, result: Evaluation) -> dict[str, Any]:
    """Return the figures, the benchmark's scores, every answer and every failure as plain data."""
    spec = prepared.spec
    sampling = {"samples": spec.evaluation.samples, "temperature": spec.evaluation.temperature}
    scores = scored(_held_out(prepared), result.answers, seed=spec.seed)
    records = {
        "failures": [failed.as_record() for failed in result.unasked()],
        "truncated": [{"question": q.key, "id": q.id, "seconds": seconds} for q, seconds in result.truncated_clips()],
    }
    figures = result.as_event()
    return {"model": spec.model.path, "data": spec.data.evaluation, **sampling, **figures, **scores, **records}


def evaluate_model(prepared: Prepared, progress: Progress) -> Evaluation:
    """Start the job's rollout workers, ask all held-out questions, and end the workers.

    Raises NothingAskedError if no question could be asked.
    """
    with failing_after_start(), ray_session(prepared.spec):
        result = asyncio.run(_evaluate(prepared, progress))
    result.require_asked()
    show_problem(progress, result)
    return result


def _held_out(prepared: Prepared) -> QuestionSet:
    if prepared.held_out_set is None:
        raise ValueError("the job has no held-out questions")
    return prepared.held_out_set


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
    pool = RolloutPool(
        worker_settings(prepared),
        rollout.limits,
        gpus_per_worker=rollout.gpus,
        on_event=lambda kind, **detail: _show_event(progress, kind, detail),
    )
    try:
        progress.phase("starting workers")
        await pool.start(rollout.workers)
        yield pool
    finally:
        await stop_all([pool])


def _show_event(progress: Progress, kind: str, detail: Mapping[str, object]) -> None:
    """Show an event that a run would have in its `events.jsonl`, unless it is about a worker in order."""
    if kind in _SHOWN_EVENTS:
        named = ", ".join(f"{name} {value}" for name, value in detail.items())
        progress.message(one_line(f"{kind.replace('_', ' ')}: {named}"))

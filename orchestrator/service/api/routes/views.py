"""Conversion of records and run data to the models of responses."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Response
from pydantic import BaseModel, ValidationError

from orchestrator.run.history import RunHistory
from orchestrator.schemas.api import (
    EvaluationView,
    JobDetail,
    JobView,
    MetricsView,
    ProgressView,
    TransitionView,
    WaitingView,
    WorkerCount,
    WorkerPage,
    WorkerView,
)
from orchestrator.schemas.job_state import ACTIVE, JobState
from orchestrator.service.api.state import ApiContext
from orchestrator.service.store.credentials import without_secrets
from orchestrator.service.store.records import JobRecord, Transition
from orchestrator.service.supervision.waiting import Wait
from orchestrator.service.telemetry.columns import MetricSeries
from orchestrator.service.telemetry.runs_now import NOT_STARTED, RunNow

Model = TypeVar("Model", bound=BaseModel)

_ALIVE = frozenset({"serving", "draining"})


def json_of(view: BaseModel) -> Response:
    """Return the view as JSON without a second validation, which would take longer than serializing it."""
    return Response(view.__pydantic_serializer__.to_json(view), media_type="application/json")


async def job_view(context: ApiContext, job: JobRecord) -> JobView:
    """Return the view of a job."""
    return (await job_views(context, [job]))[0]


async def job_views(context: ApiContext, jobs: Sequence[JobRecord]) -> list[JobView]:
    """Return the views of jobs, in the same order."""
    runs, waits = await _runs(context, jobs), await context.waiting.of(jobs)
    if len(jobs) == 1 or all(job.attempt == 0 for job in jobs):
        return [JobView(**_fields(job, runs, waits)) for job in jobs]
    return await asyncio.to_thread(lambda: [JobView(**_fields(job, runs, waits)) for job in jobs])


async def job_detail(context: ApiContext, job: JobRecord, history: Sequence[Transition]) -> JobDetail:
    """Return the view of a job with its history."""
    changes = [
        TransitionView(from_state=change.from_state, to_state=change.to_state, at=change.at, cause=change.cause)
        for change in history
    ]
    runs, waits = await _runs(context, [job]), await context.waiting.of([job])
    return JobDetail(**_fields(job, runs, waits), history=changes)


def workers_view(job: JobRecord, history: RunHistory) -> WorkerPage:
    """Return the known workers of a job and their target number."""
    count = _count(job, history)
    workers = history.workers.values() if job.state in ACTIVE else ()
    views = (_valid(WorkerView, asdict(worker)) for worker in sorted(workers, key=lambda worker: worker.name))
    items = [view for view in views if view is not None]
    return WorkerPage(items=items, next_cursor=None, target=count.target)


def metrics_view(series: MetricSeries) -> MetricsView:
    """Return metrics as rows instead of columns."""

    def rows(columns: dict[str, list[float | None]]) -> list[dict[str, float | None]]:
        return (
            [
                {"step": step, **dict(zip(columns, values, strict=True))}
                for step, values in zip(series.steps, zip(*columns.values(), strict=True), strict=True)
            ]
            if columns
            else [{"step": step} for step in series.steps]
        )

    return MetricsView.model_construct(
        items=rows(series.means),
        minima=None if series.minima is None else rows(series.minima),
        maxima=None if series.maxima is None else rows(series.maxima),
        names=series.names,
        last_step=series.last_step,
        next_cursor=None,
    )


async def _runs(context: ApiContext, jobs: Sequence[JobRecord]) -> Mapping[Path, RunNow]:
    """Return where the runs of jobs stand, without those of jobs that have no run directory yet."""
    return await context.runs.of(Path(job.run_dir) for job in jobs if job.attempt)


def _fields(job: JobRecord, runs: Mapping[Path, RunNow], waits: Mapping[str, Wait]) -> dict[str, Any]:
    run = runs.get(Path(job.run_dir), NOT_STARTED)
    history, last, wait = run.history, run.last, waits.get(job.id)
    steps = int(job.spec.get("steps", 0))
    step = last.step if last else 0
    return {
        "id": job.id,
        "name": job.name,
        "owner": job.owner,
        "state": job.state,
        "cause": job.cause,
        "priority": job.priority,
        "spec": without_secrets(job.spec),
        "gpus": job.gpus,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "attempt": job.attempt,
        "restarts": job.restarts,
        "max_restarts": job.max_restarts,
        "cancelling": job.cancel_requested_at is not None and job.state in ACTIVE,
        "run_dir": job.run_dir,
        "progress": ProgressView(
            step=step,
            steps=steps,
            fraction=min(1.0, step / steps) if steps else float(job.state is JobState.SUCCEEDED),
            metrics=last.metrics if last else {},
            current=run.current,
            evaluation=_valid(EvaluationView, history.evaluation),
        ),
        "workers": _count(job, history),
        "waiting": None if wait is None else WaitingView(position=wait.position, reason=wait.reason),
    }


def _valid(model: type[Model], value: Mapping[str, Any] | None) -> Model | None:
    """Return what events of a run say; None if Earshot did not write them: one run must not hide the others."""
    try:
        return None if value is None else model.model_validate(value)
    except ValidationError:
        return None


def _count(job: JobRecord, history: RunHistory) -> WorkerCount:
    if job.state not in ACTIVE and job.state is not JobState.QUEUED:
        return WorkerCount(target=0, alive=0)
    requested = history.target if history.target is not None else history.requested_workers
    wanted = requested if requested is not None else int(job.spec.get("rollout", {}).get("workers", 0))
    alive = sum(worker.state in _ALIVE for worker in history.workers.values()) if job.state in ACTIVE else 0
    return WorkerCount(target=wanted, alive=alive)

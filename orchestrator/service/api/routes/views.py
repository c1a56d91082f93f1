"""From what the store and the run directories hold to what the API answers with."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from orchestrator.schemas.api import (
    EvaluationView,
    JobDetail,
    JobView,
    MetricsView,
    ProgressView,
    TransitionView,
    WorkerCount,
    WorkerPage,
    WorkerView,
)
from orchestrator.schemas.job_state import ACTIVE, JobState
from orchestrator.service.api.state import Api
from orchestrator.service.store.credentials import without_secrets
from orchestrator.service.store.records import JobRecord, Transition
from orchestrator.service.telemetry.columns import MetricSeries
from orchestrator.service.telemetry.facts import RunFacts

_ALIVE = frozenset({"serving", "draining"})


def json_of(view: BaseModel) -> Response:
    """An answer that is not checked against its own model again, which would take longer than to make it."""
    return Response(view.__pydantic_serializer__.to_json(view), media_type="application/json")


async def job_view(api: Api, job: JobRecord) -> JobView:
    """One job."""
    return (await job_views(api, [job]))[0]


async def job_views(api: Api, jobs: Sequence[JobRecord]) -> list[JobView]:
    """Jobs, in their order."""
    if all(job.attempt == 0 for job in jobs):
        # None has a run directory to read.
        return [JobView(**_fields(api, job)) for job in jobs]
    return await asyncio.to_thread(lambda: [JobView(**_fields(api, job)) for job in jobs])


async def job_detail(api: Api, job: JobRecord, history: Sequence[Transition]) -> JobDetail:
    """One job with its history."""
    changes = [
        TransitionView(from_state=change.from_state, to_state=change.to_state, at=change.at, cause=change.cause)
        for change in history
    ]
    if job.attempt == 0 or api.facts.knows(Path(job.run_dir)):
        # What is new since the last time is little: to read it costs less than to have a thread do it.
        return JobDetail(**_fields(api, job), history=changes)
    return await asyncio.to_thread(lambda: JobDetail(**_fields(api, job), history=changes))


def workers_view(job: JobRecord, facts: RunFacts) -> WorkerPage:
    """A job's workers: those it has told of, and those that are still to come."""
    count = _count(job, facts)
    items = [
        WorkerView.model_validate(
            {
                "name": worker.name,
                "state": worker.state,
                "since": worker.since,
                "node": worker.node,
                "pid": worker.pid,
                "restarts": worker.restarts,
                "cause": worker.cause,
            }
        )
        for worker in sorted(facts.workers.values(), key=lambda worker: worker.name)
    ]
    if job.state not in ACTIVE:
        items = []
    return WorkerPage(items=items, next_cursor=None, target=count.target)


def metrics_view(series: MetricSeries) -> MetricsView:
    """Rows instead of columns."""

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


def _fields(api: Api, job: JobRecord) -> dict[str, Any]:
    run_dir = Path(job.run_dir)
    facts = RunFacts() if job.attempt == 0 else api.facts.of(run_dir)
    last = None if job.attempt == 0 else api.progress.of(run_dir)
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
            evaluation=EvaluationView.model_validate(facts.evaluation) if facts.evaluation else None,
        ),
        "workers": _count(job, facts),
    }


def _count(job: JobRecord, facts: RunFacts) -> WorkerCount:
    if job.state not in ACTIVE and job.state is not JobState.QUEUED:
        return WorkerCount(target=0, alive=0)
    wanted = facts.target if facts.target is not None else int(job.spec.get("rollout", {}).get("workers", 0))
    alive = sum(worker.state in _ALIVE for worker in facts.workers.values()) if job.state in ACTIVE else 0
    return WorkerCount(target=wanted, alive=alive)

"""Changes to a job as a whole: its priority, a retry, its removal."""

import logging
from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter, Request, Response

from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import send
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.about import PriorityBody
from orchestrator.schemas.api import JobView
from orchestrator.schemas.job_state import ENDED, RETRIABLE, JobState
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.body import read_model
from orchestrator.service.api.principal import CurrentPrincipal, Principal
from orchestrator.service.api.problems import OF_BODIES, OF_JOB_FILES, OF_WRITES, ProblemError, error_responses
from orchestrator.service.api.routes.idempotency import CurrentKey, IdempotentRoute
from orchestrator.service.api.routes.job_access import Context, VisibleJob, audited, state_conflict, stored_spec
from orchestrator.service.api.routes.jobs import admit, refusals
from orchestrator.service.api.routes.views import job_view
from orchestrator.service.api.state import ApiContext
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import JobInUseError, JobNotFoundError, StaleStateError
from orchestrator.service.supervision.retention import RemovalError, remove_job
from orchestrator.service.telemetry.file_threads import FilesUnavailableError

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"], route_class=IdempotentRoute)

_UNENDED = frozenset(JobState) - ENDED

_log = logging.getLogger(__name__)


@router.patch(
    "",
    response_model=JobView,
    responses=error_responses(404, 409, *OF_BODIES, *OF_WRITES),
    summary="Change the priority of a job",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PriorityBody"}}},
        }
    },
)
async def set_priority(
    job: VisibleJob, request: Request, principal: CurrentPrincipal, context: Context, key: CurrentKey
) -> JobView:
    """Change the priority of a job that has not ended. For a running one it counts in preemptions."""
    body = await read_model(request, context.settings, PriorityBody)
    async with audited(context, principal, "job.priority", job.id, priority=body.priority, before=job.priority):
        try:
            changed = await context.store.set_priority(job.id, body.priority, key)
        except StaleStateError as error:
            raise state_conflict(error.job, "another priority", _UNENDED) from error
    context.jobs.forget(job.id)
    return await job_view(context, changed)


@router.post(
    "/retry",
    response_model=JobView,
    responses=error_responses(404, 409, *OF_WRITES, *OF_JOB_FILES, ProblemCode.QUEUE_FULL),
    summary="Retry a job",
)
async def retry(job: VisibleJob, principal: CurrentPrincipal, context: Context, key: CurrentKey) -> JobView:
    """Queue a failed or cancelled job again. It continues from its last checkpoint, with all its restarts."""
    async with audited(context, principal, "job.retry", job.id):
        if job.state not in RETRIABLE:
            raise state_conflict(job, "retry", RETRIABLE)
        # What the service allows may have changed since.
        admitted = await admit(context, principal, stored_spec(job), job.owner)
        try:
            with refusals():
                queued = await context.store.retry(job.id, f"retried by {principal.owner}", admitted.uses, key)
        except StaleStateError as error:
            raise state_conflict(error.job, "retry", RETRIABLE) from error
        await _withdraw_pause(context, queued, principal.owner)
    context.jobs.forget(job.id)
    return await job_view(context, queued)


@router.delete(
    "",
    status_code=204,
    responses=error_responses(404, 409, *OF_WRITES, ProblemCode.RUN_NOT_REMOVABLE),
    summary="Remove a job",
)
async def remove(job: VisibleJob, principal: CurrentPrincipal, context: Context, key: CurrentKey) -> Response:
    """Remove a job that has ended: its run directory with all checkpoints, and its history. Stored copies stay."""
    async with audited(context, principal, "job.delete", job.id, name=job.name):
        if job.state not in ENDED:
            raise state_conflict(job, "delete", ENDED, "cancel it first")
        try:
            await remove_job(context.store, context.store.runs, job)
        except JobInUseError as error:
            needed = await _named(context, principal, error.users)
            raise ProblemError(
                ProblemCode.JOB_IN_USE, f"job {job.id} cannot be removed: its files are needed by {needed}"
            ) from error
        except StaleStateError as error:
            raise state_conflict(error.job, "delete", ENDED, "cancel it first") from error
        except RemovalError as error:
            # Its message contains a path of the service.
            _log.error("%s", error)
            raise ProblemError(
                ProblemCode.RUN_NOT_REMOVABLE,
                f"some files of job {job.id} cannot be removed; it stays without the others",
            ) from error
    context.jobs.forget(job.id)
    return Response(status_code=204)


async def _withdraw_pause(context: ApiContext, job: JobRecord, by: str) -> None:
    """Have a job that was paused when it ended run again: what was requested of a job holds for its next driver."""
    run_dir = Path(job.run_dir)
    if job.attempt == 0 or not (await context.runs.of([run_dir]))[run_dir].history.pause_requested:
        return
    try:
        await context.files.within(run_dir, lambda: send(RunDirectory(run_dir), CommandKind.RESUME, by=by))
    except (RunDirectoryError, FilesUnavailableError, OSError) as error:
        _log.warning("job %s will be paused, as it was before its retry: %s", job.id, error)


async def _named(context: ApiContext, principal: Principal, jobs: Sequence[str]) -> str:
    """Return the ids of jobs for a message, without those that the principal may not see."""
    seen = []
    for job in jobs:
        try:
            if principal.can_see(await context.store.get(job)):
                seen.append(job)
        except JobNotFoundError:
            continue
    named = f"job {', '.join(seen[:3])}{', …' if len(seen) > 3 else ''}"
    if len(seen) == len(jobs):
        return named
    return f"{named} and jobs of other users" if seen else "jobs of other users"

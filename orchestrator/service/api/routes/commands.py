"""Commands to a job: cancel it; pause, resume, checkpoint and scale a running one."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import ValidationError

from audio_qa.errors import one_line
from orchestrator.job.demand import max_gpus, scaled
from orchestrator.job.spec import JobSpec
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import send
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.api import CommandView, JobView, ScaleBody
from orchestrator.schemas.job_state import ENDED, JobState
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.body import read_object
from orchestrator.service.api.principal import CurrentPrincipal, Principal
from orchestrator.service.api.problems import ProblemError, error_responses
from orchestrator.service.api.routes.job_access import Context, VisibleJob, audited
from orchestrator.service.api.routes.views import job_view
from orchestrator.service.api.state import ApiContext
from orchestrator.service.store.records import JobRecord
from orchestrator.service.supervision.limits import NeverFitsError

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])

# States in which each command is allowed.
_ALLOWED = {
    CommandKind.PAUSE: frozenset({JobState.RUNNING}),
    CommandKind.RESUME: frozenset({JobState.RUNNING, JobState.PAUSED}),
    CommandKind.CHECKPOINT: frozenset({JobState.RUNNING}),
    CommandKind.SCALE: frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING}),
}


@router.post("/cancel", response_model=JobView, responses=error_responses(404, 409), summary="Cancel a job")
async def cancel(job: VisibleJob, principal: CurrentPrincipal, context: Context) -> JobView:
    """Cancel a job in any state. A running job becomes `cancelled` once everything it started has ended."""
    async with audited(context, principal, "job.cancel", job.id):
        if job.state in ENDED and job.state is not JobState.CANCELLED:
            raise ProblemError(ProblemCode.STATE_CONFLICT, f"job {job.id} has already ended: {job.state}")
        cancelled = await context.store.request_cancel(job.id, f"cancelled by {principal.owner}")
    context.meters.commands.labels("cancel").inc()
    context.jobs.forget(job.id)
    return await job_view(context, cancelled)


@router.post(
    "/pause",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(404, 409),
    summary="Pause a job",
)
async def pause(job: VisibleJob, principal: CurrentPrincipal, context: Context) -> CommandView:
    """Pause a running job after the current step. Its workers keep running."""
    return await _send_command(context, principal, job, CommandKind.PAUSE)


@router.post(
    "/resume",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(404, 409),
    summary="Resume a job",
)
async def resume(job: VisibleJob, principal: CurrentPrincipal, context: Context) -> CommandView:
    """Resume a paused job, or withdraw a pause that has not taken effect yet."""
    return await _send_command(context, principal, job, CommandKind.RESUME)


@router.post(
    "/checkpoint",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(404, 409),
    summary="Write a checkpoint",
)
async def checkpoint(job: VisibleJob, principal: CurrentPrincipal, context: Context) -> CommandView:
    """Write a checkpoint of a running job after the current step."""
    return await _send_command(context, principal, job, CommandKind.CHECKPOINT)


@router.patch(
    "/rollout-workers",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(404, 409, 415),
    summary="Scale a job",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ScaleBody"}}},
        }
    },
)
async def scale(job: VisibleJob, request: Request, principal: CurrentPrincipal, context: Context) -> CommandView:
    """Change the number of rollout workers of a job."""
    value = await read_object(request, context.settings)
    try:
        body = ScaleBody.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = one_line(".".join(map(str, first["loc"])), 100)
        raise ProblemError(ProblemCode.INVALID_REQUEST, f"{where}: {first['msg']}") from error
    wanted = scaled(JobSpec.model_validate(job.spec), body.count)

    async def fits() -> None:
        try:
            await context.check_fits(wanted, job.owner)
        except NeverFitsError as error:
            raise ProblemError(ProblemCode.JOB_NEVER_FITS, str(error)) from error

    response = await _send_command(context, principal, job, CommandKind.SCALE, body.count, fits)
    # The new number of GPUs counts against the limits from now on.
    await context.store.update(job.id, gpus=max_gpus(wanted))
    return response


async def _send_command(
    context: ApiContext,
    principal: Principal,
    job: JobRecord,
    kind: CommandKind,
    count: int | None = None,
    check: Callable[[], Awaitable[None]] | None = None,
) -> CommandView:
    async with audited(context, principal, f"job.{kind}", job.id, count=count):
        if job.state not in _ALLOWED[kind]:
            states = " or ".join(sorted(_ALLOWED[kind]))
            raise ProblemError(
                ProblemCode.STATE_CONFLICT, f"job {job.id} is {job.state}; {kind} requires a job that is {states}"
            )
        if check is not None:
            await check()
        try:
            identifier = send(RunDirectory(Path(job.run_dir)), kind, count=count, by=principal.owner)
        except RunDirectoryError as error:
            detail = f"job {job.id} is {job.state} and has no driver yet; try again later"
            raise ProblemError(ProblemCode.NO_DRIVER_YET, detail) from error
    context.meters.commands.labels(kind.value).inc()
    return CommandView(id=identifier, command=kind.value, count=count, job=await job_view(context, job))

"""Jobs: submit, list, show and cancel; pause, resume, checkpoint and scale a running job."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ValidationError

from audio_qa.errors import one_line
from orchestrator.job.demand import max_gpus, scaled
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, parse_spec
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import send
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.api import CommandView, JobDetail, JobView, Page, ScaleBody
from orchestrator.schemas.job_state import ENDED, JobState
from orchestrator.service.api.body import read_object
from orchestrator.service.api.principal import CurrentPrincipal, Principal
from orchestrator.service.api.problems import ProblemError, error_responses
from orchestrator.service.api.routes.job_access import Context, VisibleJob, audited
from orchestrator.service.api.routes.views import job_detail, job_view, job_views, json_of
from orchestrator.service.api.state import ApiContext
from orchestrator.service.store.access import Role
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import JobNotFoundError
from orchestrator.service.supervision.limits import NeverFitsError

router = APIRouter(tags=["jobs"])

# States in which each command is allowed.
_ALLOWED = {
    CommandKind.PAUSE: frozenset({JobState.RUNNING}),
    CommandKind.RESUME: frozenset({JobState.RUNNING, JobState.PAUSED}),
    CommandKind.CHECKPOINT: frozenset({JobState.RUNNING}),
    CommandKind.SCALE: frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING}),
}

_SPEC = {"schema": {"$ref": "#/components/schemas/JobSpec"}}
_SPEC_BODY = {
    "requestBody": {
        "required": True,
        "description": "A JobSpec: the content of a job file, with absolute paths.",
        "content": {"application/json": _SPEC, "application/yaml": _SPEC},
    }
}
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="Any unique text. Repeating a request with the same key returns the job created first.",
    ),
]


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobView,
    responses={
        200: {"model": JobView, "description": "The job created earlier with this Idempotency-Key."},
        **error_responses(409, 415),
    },
    openapi_extra=_SPEC_BODY,
    summary="Submit a job",
)
async def submit(
    request: Request,
    response: Response,
    principal: CurrentPrincipal,
    context: Context,
    idempotency_key: Key = None,
    priority: Annotated[int, Query(ge=-100, le=100, description="Jobs with a higher priority start first.")] = 0,
    max_restarts: Annotated[int, Query(ge=0, le=100, description="How often to restart a driver that dies.")] = 3,
) -> JobView:
    """Submit a job to the queue. A job that can never run here is refused, with the reason."""
    value = await read_object(request, context.settings)

    async def owns(job_id: str) -> bool:
        try:
            return principal.can_see(await context.store.get(job_id))
        except JobNotFoundError:
            return False

    async with audited(context, principal, "job.submit", name=str(value.get("name", ""))[:64]) as entry:
        try:
            spec = await context.admission.admit(parse_spec(value, "job"), owns)
            await context.check_fits(spec, principal.owner)
        except (SpecError, NeverFitsError) as error:
            raise ProblemError(422, str(error)) from error
        job, new = await context.store.submit(
            spec, owner=principal.owner, priority=priority, max_restarts=max_restarts, idempotency_key=idempotency_key
        )
        entry.target = job.id
    if new:
        context.meters.submitted.inc()
    else:
        response.status_code = 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return await job_view(context, job)


@router.get("/jobs", response_model=Page[JobView], responses=error_responses(), summary="List jobs")
async def list_jobs(
    principal: CurrentPrincipal,
    context: Context,
    state: Annotated[
        list[JobState] | None,
        Query(max_length=20, description="Only jobs in this state; repeat it for several states."),
    ] = None,
    name: Annotated[str | None, Query(max_length=64)] = None,
    owner: Annotated[
        str | None, Query(max_length=128, description="Only jobs of this owner. Only admins see the jobs of others.")
    ] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="next_cursor of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """List jobs, newest first: your own, or those of all users for an admin."""
    if principal.role is not Role.ADMIN:
        if owner is not None and owner != principal.owner:
            return json_of(Page[JobView](items=[], next_cursor=None))
        owner = principal.owner
    page = await context.store.list(states=state or (), owner=owner, name=name, cursor=cursor, limit=limit)
    return json_of(Page[JobView](items=await job_views(context, page.items), next_cursor=page.next_cursor))


@router.get("/jobs/{job_id}", response_model=JobDetail, responses=error_responses(404), summary="Show a job")
async def show(job: VisibleJob, context: Context) -> Response:
    """Return a job: its specification, state, history and progress."""
    found, history = await context.jobs.get(job.id)
    return json_of(await job_detail(context, found, history))


@router.post(
    "/jobs/{job_id}/cancel", response_model=JobView, responses=error_responses(404, 409), summary="Cancel a job"
)
async def cancel(job: VisibleJob, principal: CurrentPrincipal, context: Context) -> JobView:
    """Cancel a job in any state. A running job becomes `cancelled` once everything it started has ended."""
    async with audited(context, principal, "job.cancel", job.id):
        if job.state in ENDED and job.state is not JobState.CANCELLED:
            raise ProblemError(409, f"job {job.id} has already ended: {job.state}")
        cancelled = await context.store.request_cancel(job.id, f"cancelled by {principal.owner}")
    context.meters.commands.labels("cancel").inc()
    context.jobs.forget(job.id)
    return await job_view(context, cancelled)


@router.post(
    "/jobs/{job_id}/pause",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(404, 409),
    summary="Pause a job",
)
async def pause(job: VisibleJob, principal: CurrentPrincipal, context: Context) -> CommandView:
    """Pause a running job after the current step. Its workers keep running."""
    return await _send_command(context, principal, job, CommandKind.PAUSE)


@router.post(
    "/jobs/{job_id}/resume",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(404, 409),
    summary="Resume a job",
)
async def resume(job: VisibleJob, principal: CurrentPrincipal, context: Context) -> CommandView:
    """Resume a paused job, or withdraw a pause that has not taken effect yet."""
    return await _send_command(context, principal, job, CommandKind.RESUME)


@router.post(
    "/jobs/{job_id}/checkpoint",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(404, 409),
    summary="Write a checkpoint",
)
async def checkpoint(job: VisibleJob, principal: CurrentPrincipal, context: Context) -> CommandView:
    """Write a checkpoint of a running job after the current step."""
    return await _send_command(context, principal, job, CommandKind.CHECKPOINT)


@router.patch(
    "/jobs/{job_id}/rollout-workers",
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
        raise ProblemError(422, f"{where}: {first['msg']}") from error
    wanted = scaled(JobSpec.model_validate(job.spec), body.count)

    async def fits() -> None:
        try:
            await context.check_fits(wanted, job.owner)
        except (SpecError, NeverFitsError) as error:
            raise ProblemError(422, str(error)) from error

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
            raise ProblemError(409, f"job {job.id} is {job.state}; {kind} requires a job that is {states}")
        if check is not None:
            await check()
        try:
            identifier = send(RunDirectory(Path(job.run_dir)), kind, count=count, by=principal.owner)
        except RunDirectoryError as error:
            detail = f"job {job.id} is {job.state} and has no driver yet; try again later"
            raise ProblemError(409, detail) from error
    context.meters.commands.labels(kind.value).inc()
    return CommandView(id=identifier, command=kind.value, count=count, job=await job_view(context, job))

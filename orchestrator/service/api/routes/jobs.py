"""Jobs: submit, list, show, cancel, and tell a running one to pause, to go on, to write a checkpoint, to scale."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ValidationError

from orchestrator.job.demand import gpus_of, scaled
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, parse_spec
from orchestrator.run.commands import CommandKind, send
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.api import CommandView, JobDetail, JobView, Page, ScaleBody
from orchestrator.schemas.job_state import ENDED, JobState
from orchestrator.service.api.body import read_object
from orchestrator.service.api.principal import Current, Principal
from orchestrator.service.api.problems import ProblemError, documented
from orchestrator.service.api.routes.job_access import TheApi, TheJob, audited
from orchestrator.service.api.routes.views import job_detail, job_view, job_views, json_of
from orchestrator.service.api.state import Api
from orchestrator.service.store.access import Role
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import JobNotFoundError
from orchestrator.service.supervision.limits import NeverFitsError

router = APIRouter(tags=["jobs"])

# In which states a running job can be told what.
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
        "description": "A JobSpec: what a job file says, with absolute paths.",
        "content": {"application/json": _SPEC, "application/yaml": _SPEC},
    }
}
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="Of your choice: sent again with the same job, there is no second one.",
    ),
]


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobView,
    responses={
        200: {"model": JobView, "description": "The job that this Idempotency-Key made before."},
        **documented(409, 415),
    },
    openapi_extra=_SPEC_BODY,
    summary="Submit a job",
)
async def submit(
    request: Request,
    response: Response,
    principal: Current,
    api: TheApi,
    idempotency_key: Key = None,
    priority: Annotated[int, Query(ge=-100, le=100, description="Higher goes first.")] = 0,
    max_restarts: Annotated[int, Query(ge=0, le=100, description="Of a driver that dies.")] = 3,
) -> JobView:
    """Put a job in the queue. A job that can never run here is refused, with the reason."""
    value = await read_object(request, api.settings)

    async def owns(job_id: str) -> bool:
        try:
            return principal.sees(await api.store.get(job_id))
        except JobNotFoundError:
            return False

    async with audited(api, principal, "job.submit", name=str(value.get("name", ""))[:64]) as entry:
        try:
            spec = await api.admission.admit(parse_spec(value, "job"), owns)
            await api.fits(spec, principal.owner)
        except (SpecError, NeverFitsError) as error:
            raise ProblemError(422, str(error)) from error
        job, new = await api.store.submit(
            spec, owner=principal.owner, priority=priority, max_restarts=max_restarts, idempotency_key=idempotency_key
        )
        entry.target = job.id
    if new:
        api.meters.submitted.inc()
    else:
        response.status_code = 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return await job_view(api, job)


@router.get("/jobs", response_model=Page[JobView], responses=documented(), summary="List jobs")
async def list_jobs(
    principal: Current,
    api: TheApi,
    state: Annotated[list[JobState] | None, Query(max_length=20, description="Only these; repeat it.")] = None,
    name: Annotated[str | None, Query(max_length=64)] = None,
    owner: Annotated[str | None, Query(max_length=128, description="Admins see jobs of others too.")] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="next_cursor of the part before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Jobs, newest first: one's own, or everybody's for an admin."""
    if principal.role is not Role.ADMIN:
        if owner is not None and owner != principal.owner:
            return json_of(Page[JobView](items=[], next_cursor=None))
        owner = principal.owner
    page = await api.store.list(states=state or (), owner=owner, name=name, cursor=cursor, limit=limit)
    return json_of(Page[JobView](items=await job_views(api, page.items), next_cursor=page.next_cursor))


@router.get("/jobs/{job_id}", response_model=JobDetail, responses=documented(404), summary="Show a job")
async def show(job: TheJob, api: TheApi) -> Response:
    """A job: its state and history, what it was asked to do, and how far it is."""
    found, history = await api.jobs.get(job.id)
    return json_of(await job_detail(api, found, history))


@router.post("/jobs/{job_id}/cancel", response_model=JobView, responses=documented(404, 409), summary="Cancel a job")
async def cancel(job: TheJob, principal: Current, api: TheApi) -> JobView:
    """End a job in any state. One that runs is `cancelled` when everything it started has ended."""
    async with audited(api, principal, "job.cancel", job.id):
        if job.state in ENDED and job.state is not JobState.CANCELLED:
            raise ProblemError(409, f"job {job.id} has ended: it {job.state}")
        cancelled = await api.store.request_cancel(job.id, f"cancelled by {principal.owner}")
    api.meters.commands.labels("cancel").inc()
    api.jobs.forget(job.id)
    return await job_view(api, cancelled)


@router.post(
    "/jobs/{job_id}/pause", status_code=202, response_model=CommandView, responses=documented(404, 409), summary="Pause"
)
async def pause(job: TheJob, principal: Current, api: TheApi) -> CommandView:
    """Have a running job wait behind its step. Its workers stay."""
    return await _tell(api, principal, job, CommandKind.PAUSE)


@router.post(
    "/jobs/{job_id}/resume",
    status_code=202,
    response_model=CommandView,
    responses=documented(404, 409),
    summary="Go on",
)
async def resume(job: TheJob, principal: Current, api: TheApi) -> CommandView:
    """Let a paused job go on, or one that was told to pause and has not yet."""
    return await _tell(api, principal, job, CommandKind.RESUME)


@router.post(
    "/jobs/{job_id}/checkpoint",
    status_code=202,
    response_model=CommandView,
    responses=documented(404, 409),
    summary="Write a checkpoint",
)
async def checkpoint(job: TheJob, principal: Current, api: TheApi) -> CommandView:
    """Have a running job write a checkpoint behind its step."""
    return await _tell(api, principal, job, CommandKind.CHECKPOINT)


@router.patch(
    "/jobs/{job_id}/rollout-workers",
    status_code=202,
    response_model=CommandView,
    responses=documented(404, 409, 415),
    summary="Scale",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ScaleBody"}}},
        }
    },
)
async def scale(job: TheJob, request: Request, principal: Current, api: TheApi) -> CommandView:
    """Have a job use another number of rollout workers from now on."""
    value = await read_object(request, api.settings)
    try:
        body = ScaleBody.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProblemError(422, f"{where[:100]}: {first['msg']}") from error
    wanted = scaled(JobSpec.model_validate(job.spec), body.count)

    async def fits() -> None:
        try:
            await api.fits(wanted, job.owner)
        except (SpecError, NeverFitsError) as error:
            raise ProblemError(422, str(error)) from error

    told = await _tell(api, principal, job, CommandKind.SCALE, body.count, fits)
    # What it has now counts against the limits.
    await api.store.update(job.id, gpus=gpus_of(wanted))
    return told


async def _tell(
    api: Api,
    principal: Principal,
    job: JobRecord,
    kind: CommandKind,
    count: int | None = None,
    check: Callable[[], Awaitable[None]] | None = None,
) -> CommandView:
    async with audited(api, principal, f"job.{kind}", job.id, count=count):
        if job.state not in _ALLOWED[kind]:
            states = " or ".join(sorted(_ALLOWED[kind]))
            raise ProblemError(409, f"job {job.id} is {job.state}; to {kind} takes one that is {states}")
        if check is not None:
            await check()
        try:
            identifier = send(RunDirectory(Path(job.run_dir)), kind, count=count, by=principal.owner)
        except RunDirectoryError as error:
            detail = f"job {job.id} is {job.state} and has no driver yet; try again in a moment"
            raise ProblemError(409, detail) from error
    api.meters.commands.labels(kind.value).inc()
    return CommandView(id=identifier, command=kind.value, count=count, job=await job_view(api, job))

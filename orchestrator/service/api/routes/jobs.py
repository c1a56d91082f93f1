"""Jobs: submit, list and show."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from orchestrator.job.spec_file import SpecError, parse_spec
from orchestrator.schemas.api import JobDetail, JobView, Page
from orchestrator.schemas.job_state import JobState
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.body import read_object
from orchestrator.service.api.principal import CurrentPrincipal
from orchestrator.service.api.problems import ProblemError, error_responses
from orchestrator.service.api.routes.job_access import Context, VisibleJob, audited
from orchestrator.service.api.routes.views import job_detail, job_view, job_views, json_of
from orchestrator.service.store.access import Role
from orchestrator.service.store.store import JobNotFoundError
from orchestrator.service.supervision.limits import NeverFitsError

router = APIRouter(tags=["jobs"])

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
            admitted = await context.admission.admit(parse_spec(value, "job"), owns)
            await context.check_fits(admitted.spec, principal.owner)
        except NeverFitsError as error:
            raise ProblemError(ProblemCode.JOB_NEVER_FITS, str(error)) from error
        except SpecError as error:
            raise ProblemError(ProblemCode.INVALID_JOB, str(error)) from error
        job, new = await context.store.submit(
            admitted.spec,
            owner=principal.owner,
            priority=priority,
            max_restarts=max_restarts,
            idempotency_key=idempotency_key,
            uses=admitted.uses,
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

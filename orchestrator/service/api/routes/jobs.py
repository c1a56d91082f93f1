"""Jobs: submit, check, list and show."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from orchestrator.job.demand import max_cpus, max_gpus
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, parse_spec
from orchestrator.schemas.about import HIGHEST_PRIORITY, ValidationView
from orchestrator.schemas.api import JobDetail, JobView, Page
from orchestrator.schemas.job_state import JobState
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.schemas.whole_number import WholeNumber
from orchestrator.service.admission.admission import AdmissionBusyError, Admitted
from orchestrator.service.api.body import read_object
from orchestrator.service.api.principal import CurrentPrincipal, Principal
from orchestrator.service.api.problems import (
    OF_BODIES,
    OF_JOB_FILES,
    OF_WRITES,
    ProblemError,
    error_responses,
)
from orchestrator.service.api.routes.idempotency import CurrentKey, IdempotentRoute
from orchestrator.service.api.routes.job_access import Context, VisibleJob, audited, require_submitter
from orchestrator.service.api.routes.views import job_detail, job_view, job_views, json_of
from orchestrator.service.api.state import ApiContext
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import without_secrets
from orchestrator.service.store.store import JobNotFoundError, QueueFullError, UsedJobGoneError
from orchestrator.service.supervision.limits import NeverFitsError

router = APIRouter(tags=["jobs"], route_class=IdempotentRoute)
validation_router = APIRouter(tags=["jobs"])

_SPEC = {"schema": {"$ref": "#/components/schemas/JobSpec"}}
_SPEC_BODY = {
    "requestBody": {
        "required": True,
        "description": "A JobSpec: the content of a job file, with absolute paths.",
        "content": {"application/json": _SPEC, "application/yaml": _SPEC},
    }
}


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobView,
    responses={
        200: {"model": JobView, "description": "The job created earlier with this Idempotency-Key."},
        **error_responses(*OF_BODIES, *OF_WRITES, *OF_JOB_FILES, ProblemCode.QUEUE_FULL),
    },
    openapi_extra=_SPEC_BODY,
    summary="Submit a job",
)
async def submit(
    request: Request,
    response: Response,
    principal: CurrentPrincipal,
    context: Context,
    key: CurrentKey,
    priority: Annotated[
        WholeNumber,
        Query(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY, description="Jobs with a higher priority start first."),
    ] = 0,
    max_restarts: Annotated[
        WholeNumber, Query(ge=0, le=100, description="How often to restart a driver that dies.")
    ] = 3,
) -> JobView:
    """Submit a job to the queue. A job that can never run here is refused, with the reason."""
    value = await read_object(request, context.settings)
    async with audited(context, principal, "job.submit", name=str(value.get("name", ""))[:64]) as entry:
        admitted = await admit(context, principal, _parsed(value), principal.owner)
        with refusals():
            job, new = await context.store.submit(
                admitted.spec,
                owner=principal.owner,
                priority=priority,
                max_restarts=max_restarts,
                request=key,
                uses=admitted.uses,
            )
        entry.target = job.id
    if new:
        context.meters.submitted.inc()
    else:
        response.status_code = 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return await job_view(context, job)


@validation_router.post(
    "/jobs:validate",
    response_model=ValidationView,
    responses=error_responses(*OF_BODIES, *OF_JOB_FILES),
    openapi_extra=_SPEC_BODY,
    summary="Check a job without submitting it",
)
async def validate(request: Request, principal: CurrentPrincipal, context: Context) -> ValidationView:
    """Check a job as its submission would, and return it as it would be queued. Nothing is created."""
    require_submitter(context, principal)
    spec = _parsed(await read_object(request, context.settings))
    spec = (await admit(context, principal, spec, principal.owner)).spec
    return ValidationView(spec=without_secrets(spec.model_dump(mode="json")), gpus=max_gpus(spec), cpus=max_cpus(spec))


def _parsed(value: dict[str, Any]) -> JobSpec:
    with refusals():
        return parse_spec(value, "job")


async def admit(context: ApiContext, principal: Principal, spec: JobSpec, owner: str) -> Admitted:
    """Return a job of an owner that may be queued. Raises ProblemError, with the reason why it may not.

    Args:
        principal: who asks for it, and may name the run directories of the jobs that they see.
    """

    async def owns(job_id: str) -> bool:
        try:
            return principal.can_see(await context.store.get(job_id))
        except JobNotFoundError:
            return False

    with refusals():
        admitted = await context.admission.admit(spec, owns, principal.owner, owner)
        await context.check_fits(admitted.spec, owner)
    return admitted


@contextmanager
def refusals() -> Iterator[None]:
    """Raise ProblemError for every reason why a job may not be queued."""
    try:
        yield
    except NeverFitsError as error:
        raise ProblemError(ProblemCode.JOB_NEVER_FITS, str(error)) from error
    except (SpecError, UsedJobGoneError) as error:
        raise ProblemError(ProblemCode.INVALID_JOB, str(error)) from error
    except AdmissionBusyError as error:
        headers = {"Retry-After": str(error.retry_after)}
        raise ProblemError(ProblemCode.ADMISSION_BUSY, str(error), headers=headers) from error
    except QueueFullError as error:
        raise ProblemError(ProblemCode.QUEUE_FULL, str(error), headers={"Retry-After": "10"}) from error


@router.get(
    "/jobs", response_model=Page[JobView], responses=error_responses(ProblemCode.INVALID_CURSOR), summary="List jobs"
)
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
    limit: Annotated[WholeNumber, Query(ge=1, le=500)] = 50,
) -> Response:
    """List jobs, newest first: your own, or those of all users for an admin."""
    if principal.role is not Role.ADMIN:
        if owner is not None and owner != principal.owner:
            return json_of(Page[JobView](items=[], next_cursor=None))
        owner = principal.owner
    page = await context.store.list(states=state or (), owner=owner, name=name, cursor=cursor, limit=limit)
    return json_of(Page[JobView](items=await job_views(context, page.items), next_cursor=page.next_cursor))


@router.get(
    "/jobs/{job_id}",
    response_model=JobDetail,
    responses=error_responses(ProblemCode.JOB_NOT_FOUND),
    summary="Show a job",
)
async def show(job: VisibleJob, context: Context) -> Response:
    """Return a job: its specification, state, history and progress."""
    found, history = await context.jobs.get(job.id)
    return json_of(await job_detail(context, found, history))

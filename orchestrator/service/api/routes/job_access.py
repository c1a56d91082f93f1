"""Access to the job named by a path, and the audit log of changes to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from audio_qa.errors import shown
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.principal import CurrentPrincipal, Principal, require
from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.state import ApiContext, api_context
from orchestrator.service.store.access import Role
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import JobNotFoundError

JobId = Annotated[
    str,
    Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Job id.", examples=["5f0c2a9e7b1d4c38"]),
]
Context = Annotated[ApiContext, Depends(api_context)]


async def visible_job(request: Request, job_id: JobId, principal: CurrentPrincipal, context: Context) -> JobRecord:
    """Return the job. Raises ProblemError, the same for the job of another user and for one that does not exist."""
    if request.method != "GET":
        # Whether a change is allowed depends on the current state, not on a cached one.
        context.jobs.forget(job_id)
    try:
        job, _ = await context.jobs.get(job_id)
    except JobNotFoundError:
        job = None
    if job is None or not principal.can_see(job):
        raise ProblemError(ProblemCode.JOB_NOT_FOUND, f"there is no job {shown(job_id)}")
    return job


VisibleJob = Annotated[JobRecord, Depends(visible_job)]


@dataclass(slots=True)
class AuditedAction:
    """An action in progress that will be written to the audit log."""

    target: str
    detail: dict[str, Any]


@asynccontextmanager
async def audited(
    context: ApiContext, principal: Principal, action: str, target: str = "", **detail: Any
) -> AsyncIterator[AuditedAction]:
    """Run an action that requires the role of a submitter, and write its outcome to the audit log.

    Raises ProblemError if the principal lacks the role.
    """
    entry, outcome = AuditedAction(target, detail), "ok"
    try:
        try:
            require(principal, Role.SUBMITTER)
        except ProblemError:
            context.meters.refused.inc()
            raise
        yield entry
    except ProblemError as problem:
        outcome = problem.detail[:500]
        raise
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        await context.store.audit(principal.owner, action, target=entry.target, outcome=outcome, detail=entry.detail)

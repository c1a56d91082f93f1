"""Access to the job named by a path, and the audit log of changes to it."""

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from audio_qa.errors import shown
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, parse_spec
from orchestrator.schemas.job_id import JOB_ID
from orchestrator.schemas.job_state import ACTIVE, ENDED, JobState
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.principal import CurrentPrincipal, Principal, require
from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.state import ApiContext, api_context
from orchestrator.service.store.access import Role
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import JobNotFoundError

_ID = re.compile(JOB_ID)
# The pattern is for clients: to a user, text that is not an id is the name of a job that does not exist.
JobId = Annotated[
    str, Path(description="Job id.", examples=["5f0c2a9e7b1d4c38"], json_schema_extra={"pattern": f"^{JOB_ID}$"})
]
Context = Annotated[ApiContext, Depends(api_context)]


async def visible_job(request: Request, job_id: JobId, principal: CurrentPrincipal, context: Context) -> JobRecord:
    """Return the job. Raises ProblemError, the same for the job of another user and for one that does not exist."""
    if request.method != "GET":
        # Whether a change is allowed depends on the current state, not on a cached one.
        context.jobs.forget(job_id)
    return await job_for(context, principal, job_id)


async def job_for(
    context: ApiContext, principal: Principal, job_id: str, missing: str = "there is no job {}"
) -> JobRecord:
    """Return a job that the principal may see. Raises ProblemError otherwise, with the text `missing`."""
    job = None
    if _ID.fullmatch(job_id):
        with suppress(JobNotFoundError):
            job, _ = await context.jobs.get(job_id)
    if job is None or not principal.can_see(job):
        raise ProblemError(ProblemCode.JOB_NOT_FOUND, missing.format(shown(job_id)))
    return job


VisibleJob = Annotated[JobRecord, Depends(visible_job)]


def stored_spec(job: JobRecord) -> JobSpec:
    """Return the specification of a job that an earlier version may have queued. Raises ProblemError."""
    try:
        return parse_spec(job.spec, "job")
    except SpecError as error:
        raise ProblemError(
            ProblemCode.INVALID_JOB, f"this version of Earshot cannot run the job ({error}); submit a new one"
        ) from error


_IS = {
    JobState.SUCCEEDED: "has already succeeded",
    JobState.FAILED: "has failed",
    JobState.CANCELLED: "was cancelled",
}


def state_conflict(job: JobRecord, action: str, needs: Collection[JobState], remedy: str = "") -> ProblemError:
    """Return the error for a job whose state does not allow an action.

    Args:
        action: what was asked for: `resume`, …
        needs: the states that allow it.
        remedy: what to do about it, if there is more to say.
    """
    state = _IS.get(job.state, f"is {job.state}")
    if job.cancel_requested_at is not None and job.state in ACTIVE:
        state = "is being cancelled"
    more = f": {remedy}" if remedy else ""
    return ProblemError(ProblemCode.STATE_CONFLICT, f"job {job.id} {state}; {action} needs {_wanted(needs)}{more}")


def _wanted(states: Collection[JobState]) -> str:
    if set(states) == ENDED:
        return "a job that has ended"
    if set(states) == set(JobState) - ENDED:
        return "a job that has not ended"
    *names, last = (state.value for state in JobState if state in states)
    return f"a {', '.join(names)}{' or ' if names else ''}{last} job"


@dataclass(slots=True)
class AuditedAction:
    """An action in progress that will be written to the audit log."""

    target: str
    detail: dict[str, Any]


def require_submitter(context: ApiContext, principal: Principal) -> None:
    """Raise ProblemError, and count it, unless the principal has the role of a submitter."""
    try:
        require(principal, Role.SUBMITTER)
    except ProblemError:
        context.meters.refused.inc()
        raise


@asynccontextmanager
async def audited(
    context: ApiContext, principal: Principal, action: str, target: str = "", **detail: Any
) -> AsyncIterator[AuditedAction]:
    """Run an action that requires the role of a submitter, and write its outcome to the audit log.

    Raises ProblemError if the principal lacks the role.
    """
    entry, outcome = AuditedAction(target, detail), "ok"
    try:
        require_submitter(context, principal)
        yield entry
    except ProblemError as problem:
        outcome = problem.detail[:500]
        raise
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        await context.store.audit(principal.owner, action, target=entry.target, outcome=outcome, detail=entry.detail)

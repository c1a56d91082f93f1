"""The job that a path names, if it exists for whoever asks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from orchestrator.service.api.principal import Current, Principal, require
from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.state import Api, api_of
from orchestrator.service.store.access import Role
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import JobNotFoundError

JobId = Annotated[
    str,
    Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The id of a job.", examples=["5f0c2a9e7b1d4c38"]),
]
TheApi = Annotated[Api, Depends(api_of)]


async def visible_job(request: Request, job_id: JobId, principal: Current, api: TheApi) -> JobRecord:
    """The job. Raises ProblemError: a job of somebody else's is not to be told from one that is not there."""
    if request.method != "GET":
        # What may be done depends on what is now.
        api.jobs.forget(job_id)
    try:
        job, _ = await api.jobs.get(job_id)
    except JobNotFoundError:
        job = None
    if job is None or not principal.sees(job):
        raise ProblemError(404, f"there is no job {job_id!r}")
    return job


TheJob = Annotated[JobRecord, Depends(visible_job)]


@dataclass(slots=True)
class JobEntry:
    """A line of the audit log that is being made."""

    target: str
    detail: dict[str, Any]


@asynccontextmanager
async def audited(
    api: Api, principal: Principal, action: str, target: str = "", **detail: Any
) -> AsyncIterator[JobEntry]:
    """Around what a submitter may do: whether they may, whether it was done, or why not, goes to the audit log.

    Raises ProblemError for whoever may not.
    """
    entry, outcome = JobEntry(target, detail), "ok"
    try:
        try:
            require(principal, Role.SUBMITTER)
        except ProblemError:
            api.meters.refused.inc()
            raise
        yield entry
    except ProblemError as problem:
        outcome = problem.detail[:500]
        raise
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        await api.store.audit(principal.owner, action, target=entry.target, outcome=outcome, detail=entry.detail)

"""Commands to a job: cancel it; pause, resume, checkpoint and scale a running one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from fastapi import APIRouter, Request

from orchestrator.job.demand import max_gpus, scaled
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import send
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.api import CommandView, JobView, ScaleBody
from orchestrator.schemas.job_state import ENDED, JobState
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.body import read_model
from orchestrator.service.api.principal import CurrentPrincipal, Principal
from orchestrator.service.api.problems import OF_BODIES, OF_RUN_FILES, OF_WRITES, ProblemError, error_responses
from orchestrator.service.api.routes.idempotency import CurrentKey, IdempotentRoute, command_id
from orchestrator.service.api.routes.job_access import Context, VisibleJob, audited, state_conflict, stored_spec
from orchestrator.service.api.routes.views import job_view
from orchestrator.service.api.state import ApiContext
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.request_store import RequestKey
from orchestrator.service.store.store import StaleStateError
from orchestrator.service.supervision.limits import LimitReachedError, NeverFitsError, check_growth
from orchestrator.service.supervision.settlement import settle_run
from orchestrator.service.telemetry.file_threads import FilesUnavailableError

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"], route_class=IdempotentRoute)

_scaling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
"""Locks of the jobs that are being scaled, by id."""
_log = logging.getLogger(__name__)

# States in which each command is allowed.
_ALLOWED = {
    CommandKind.PAUSE: frozenset({JobState.RUNNING}),
    CommandKind.RESUME: frozenset({JobState.RUNNING, JobState.PAUSED}),
    CommandKind.CHECKPOINT: frozenset({JobState.RUNNING, JobState.PAUSED}),
    CommandKind.SCALE: frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING}),
}


@router.post(
    "/cancel", response_model=JobView, responses=error_responses(409, *OF_RUN_FILES, *OF_WRITES), summary="Cancel a job"
)
async def cancel(job: VisibleJob, principal: CurrentPrincipal, context: Context, key: CurrentKey) -> JobView:
    """Cancel a job in any state. A running job becomes `cancelled` once everything it started has ended."""
    async with audited(context, principal, "job.cancel", job.id):
        if job.state in ENDED and job.state is not JobState.CANCELLED:
            raise state_conflict(job, "cancel", frozenset(JobState) - ENDED)
        cancelled = await context.store.request_cancel(job.id, f"cancelled by {principal.owner}", key)
        if cancelled.state is JobState.CANCELLED and cancelled.attempt:
            # It was preempted and waited in the queue, maybe with commands for its next driver.
            await _settle(context, cancelled)
    context.meters.commands.labels("cancel").inc()
    context.jobs.forget(job.id)
    return await job_view(context, cancelled)


@router.post(
    "/pause",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(409, *OF_RUN_FILES, *OF_WRITES),
    summary="Pause a job",
)
async def pause(job: VisibleJob, principal: CurrentPrincipal, context: Context, key: CurrentKey) -> CommandView:
    """Pause a running job after the current step. Its workers keep running."""
    return await _send_command(context, principal, job, CommandKind.PAUSE, key)


@router.post(
    "/resume",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(409, *OF_RUN_FILES, *OF_WRITES),
    summary="Resume a job",
)
async def resume(job: VisibleJob, principal: CurrentPrincipal, context: Context, key: CurrentKey) -> CommandView:
    """Resume a paused job, or withdraw a pause that has not taken effect yet."""
    return await _send_command(context, principal, job, CommandKind.RESUME, key)


@router.post(
    "/checkpoint",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(409, *OF_RUN_FILES, *OF_WRITES),
    summary="Write a checkpoint",
)
async def checkpoint(job: VisibleJob, principal: CurrentPrincipal, context: Context, key: CurrentKey) -> CommandView:
    """Write a checkpoint of a running job after the current step, or of a paused job at once."""
    return await _send_command(context, principal, job, CommandKind.CHECKPOINT, key)


@router.patch(
    "/rollout-workers",
    status_code=202,
    response_model=CommandView,
    responses=error_responses(
        409, *OF_RUN_FILES, *OF_BODIES, *OF_WRITES, ProblemCode.INVALID_JOB, ProblemCode.JOB_NEVER_FITS
    ),
    summary="Scale a job",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ScaleBody"}}},
        }
    },
)
async def scale(
    job: VisibleJob, request: Request, principal: CurrentPrincipal, context: Context, key: CurrentKey
) -> CommandView:
    """Change the number of rollout workers of a job. Fewer are always allowed; more only within the limits."""
    body = await read_model(request, context.settings, ScaleBody)
    wanted = scaled(stored_spec(job), body.count)
    gpus, grows = max_gpus(wanted), body.count > (await job_view(context, job)).workers.target
    before: list[float] = []

    def has_room(now: JobRecord, others: Sequence[JobRecord]) -> None:
        situation = context.situation()
        check_growth(now, gpus, others, situation.limits, situation.cluster_gpus)

    async def reserve() -> None:
        """Have the new number of GPUs count against the limits from now on, if they allow it."""
        try:
            if grows or gpus > job.gpus:
                await context.check_fits(wanted, job.owner)
            before.append(await context.store.reserve_gpus(job.id, gpus, has_room))
        except NeverFitsError as error:
            raise ProblemError(ProblemCode.JOB_NEVER_FITS, str(error)) from error
        except LimitReachedError as error:
            raise ProblemError(ProblemCode.LIMIT_REACHED, str(error)) from error
        except StaleStateError as error:
            raise state_conflict(error.job, CommandKind.SCALE, _ALLOWED[CommandKind.SCALE]) from error

    # One at a time: a failed request must not undo the reservation of another one that was sent.
    async with _scaling.setdefault(job.id, asyncio.Lock()):
        try:
            return await _send_command(context, principal, job, CommandKind.SCALE, key, body.count, reserve)
        except FilesUnavailableError:
            # The command may still be written: its GPUs stay counted.
            raise
        except Exception:
            if before:
                await context.store.release_gpus(job.id, gpus, before[0])
            raise


async def _settle(context: ApiContext, job: JobRecord) -> None:
    """Record as failed what a job that has ended was sent and no driver will read."""
    run_dir = Path(job.run_dir)
    try:
        await context.files.within(run_dir, settle_run, run_dir, job.state)
    except (RunDirectoryError, FilesUnavailableError, OSError) as error:
        _log.warning("the last commands of job %s cannot be recorded as failed: %s", job.id, error)


def _send(job: JobRecord, kind: CommandKind, count: int | None, owner: str, identifier: str | None) -> str:
    return send(RunDirectory(Path(job.run_dir)), kind, count=count, by=owner, identifier=identifier)


async def _send_command(
    context: ApiContext,
    principal: Principal,
    job: JobRecord,
    kind: CommandKind,
    key: RequestKey | None,
    count: int | None = None,
    check: Callable[[], Awaitable[None]] | None = None,
) -> CommandView:
    async with audited(context, principal, f"job.{kind}", job.id, count=count):
        if job.state not in _ALLOWED[kind]:
            raise state_conflict(job, kind, _ALLOWED[kind])
        if check is not None:
            await check()
        try:
            identifier = await context.files.within(
                Path(job.run_dir), _send, job, kind, count, principal.owner, command_id(key)
            )
        except RunDirectoryError as error:
            detail = f"job {job.id} is {job.state} and has no driver yet; try again later"
            raise ProblemError(ProblemCode.NO_DRIVER_YET, detail) from error
        except OSError as error:
            detail = f"the command cannot be written to the run directory of job {job.id}: {error.strerror or error}"
            raise ProblemError(ProblemCode.RUN_UNREADABLE, detail) from error
        now = await context.store.get(job.id)
        if now.state in ENDED:
            # No driver reads it, and the supervisor may have settled the job before it was sent.
            await _settle(context, now)
            raise state_conflict(now, kind, _ALLOWED[kind])
    context.meters.commands.labels(kind.value).inc()
    return CommandView(id=identifier, command=kind.value, count=count, job=await job_view(context, job))

"""The part of the store for scheduling: jobs with a driver, the queue in pages, and the GPUs that jobs count for.

Invariants: a job starts, or grows, only if it fits together with all others at that moment: the check and the change
are one transaction, and there is one such transaction at a time. No query reads the rows of the queue that it does not
return: an index has all that decides which those are.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Float, Select, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.schemas.job_state import ACTIVE, JobState
from orchestrator.service.store.database import Database
from orchestrator.service.store.job_rows import (
    QueueFullError,
    StaleStateError,
    UsedJobGoneError,
    change_state,
    job_with_id,
    record_of,
)
from orchestrator.service.store.records import JobRecord, QueuedJob
from orchestrator.service.store.tables import jobs

_LOCK = 7270002
"""Advisory lock on PostgreSQL for changes to what jobs use together; on SQLite all transactions take turns."""

RoomCheck = Callable[[JobRecord, Sequence[JobRecord]], None]
"""Takes a job that starts or grows, and all other active jobs; raises an error if it does not fit beside them."""

_queued = jobs.c.state == JobState.QUEUED.value
_active = jobs.c.state.in_([state.value for state in JobState if state in ACTIVE])


@dataclass(frozen=True, slots=True)
class OwnersUse:
    """Jobs and GPUs of started jobs by owner: they decide which queued jobs are held back by their owner's limits."""

    full: frozenset[str] = frozenset()
    """Owners who may start no job at all."""
    gpus: Mapping[str, float] = field(default_factory=dict)
    """GPUs by owner; those without a started job are left out."""
    most_gpus: float = math.inf
    """GPUs that one owner may use."""


@dataclass(frozen=True, slots=True)
class QueueCaps:
    """Most queued jobs; more are refused. A job that is preempted goes back to the queue in any case."""

    all: float = math.inf
    per_user: float = math.inf


class QueueStore:
    """Active jobs and the queue; see `Store`."""

    _database: Database

    async def active(self) -> tuple[JobRecord, ...]:
        """Return the jobs that have a driver, or are about to have one, in order of submission."""
        async with self._database.read() as connection:
            return await _active_jobs(connection)

    async def queue(self, use: OwnersUse, after: QueuedJob | None = None, limit: int = 32) -> tuple[QueuedJob, ...]:
        """Return the first queued jobs whose owners' limits allow them, by priority and then by submission.

        Args:
            after: the last job of the page before.
        """
        query = _ordered(
            select(jobs.c.seq, jobs.c.id, jobs.c.owner, jobs.c.priority, jobs.c.gpus, jobs.c.attempt)
        ).limit(limit)
        if after is not None:
            later = (jobs.c.priority == after.priority) & (jobs.c.seq > after.seq)
            query = query.where(or_(jobs.c.priority < after.priority, later))
        if use.full:
            query = query.where(jobs.c.owner.not_in(sorted(use.full)))
        if math.isfinite(use.most_gpus):
            query = query.where(jobs.c.gpus <= use.most_gpus)
            for owner, used in use.gpus.items():
                fits = literal(used, Float) + jobs.c.gpus <= use.most_gpus
                query = query.where(or_(jobs.c.owner != owner, fits))
        async with self._database.read() as connection:
            rows = await connection.execute(query)
            return tuple(QueuedJob(r.seq, r.id, r.owner, r.priority, r.gpus, r.attempt) for r in rows)

    async def queue_positions(self, queued: Collection[JobRecord]) -> dict[str, int]:
        """Return the places of queued jobs in the queue by id; the next one has place 1."""
        if not queued:
            return {}
        if len(queued) == 1:
            (job,) = queued
            # Two ranges of the index: one condition with OR would read it row by row.
            higher = select(func.count()).where(_queued, jobs.c.priority > job.priority)
            earlier = select(func.count()).where(_queued, jobs.c.priority == job.priority, jobs.c.seq < job.seq)
            count = select(higher.scalar_subquery() + earlier.scalar_subquery())
            async with self._database.read() as connection:
                return {job.id: 1 + int((await connection.execute(count)).scalar_one())}
        place = func.row_number().over(order_by=(jobs.c.priority.desc(), jobs.c.seq)).label("place")
        ranked = select(jobs.c.seq, place).where(_queued).subquery()
        ids = {job.seq: job.id for job in queued}
        async with self._database.read() as connection:
            rows = await connection.execute(select(ranked).where(ranked.c.seq.in_(ids)))
            return {ids[row.seq]: row.place for row in rows}

    async def oldest_queued_at(self) -> datetime | None:
        """Return the time of submission of the job that was queued first; None for an empty queue."""
        query = select(jobs.c.created_at).where(_queued).order_by(jobs.c.seq).limit(1)
        async with self._database.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def begin_attempt(self, job: JobRecord | QueuedJob, check: RoomCheck | None = None) -> JobRecord:
        """Assign the next submission id to a queued or recovering job; the caller then starts its driver.

        The new `submission_id` names job and attempt, so that one attempt never has two drivers.

        Args:
            check: called for a queued job; its error leaves the job in the queue.

        Raises:
            JobNotFoundError, StaleStateError: the job has changed since the caller read it; nothing was changed.
        """
        async with self._database.write() as connection:
            await lock_use(connection)
            now = await job_with_id(connection, job.id, lock=True)
            if (now.state, now.attempt) != (job.state, job.attempt) or now.cancel_requested_at is not None:
                raise StaleStateError(now, {job.state})
            attempt = now.attempt + 1
            fields = {
                "attempt": attempt,
                "submission_id": f"{job.id}-{attempt}",
                "not_before": None,
                "started_at": now.started_at or datetime.now(UTC),
            }
            if now.state is JobState.QUEUED:
                if check is not None:
                    check(now, await _active_jobs(connection))
                return await change_state(connection, now, {now.state}, JobState.STARTING, None, fields)
            if now.state is not JobState.RECOVERING or now.not_before is None:
                raise StaleStateError(now, {JobState.QUEUED, JobState.RECOVERING})
            await connection.execute(update(jobs).where(jobs.c.id == job.id).values(**fields))
            return await job_with_id(connection, job.id)

    async def reserve_gpus(self, job_id: str, gpus: float, check: RoomCheck) -> float:
        """Count another number of GPUs for an active job from now on; return the number before.

        Args:
            check: called if the job grows; its error changes nothing.

        Raises:
            JobNotFoundError, StaleStateError: nothing was changed.
        """
        async with self._database.write() as connection:
            await lock_use(connection)
            job = await job_with_id(connection, job_id, lock=True)
            if job.state not in ACTIVE:
                raise StaleStateError(job, ACTIVE)
            if gpus > job.gpus:
                check(job, [other for other in await _active_jobs(connection) if other.id != job_id])
            await connection.execute(update(jobs).where(jobs.c.id == job_id).values(gpus=gpus))
            return job.gpus

    async def release_gpus(self, job_id: str, reserved: float, before: float) -> None:
        """Undo a reservation, unless another one has replaced it."""
        async with self._database.write() as connection:
            own = (jobs.c.id == job_id) & (jobs.c.gpus == reserved)
            await connection.execute(update(jobs).where(own).values(gpus=before))


async def lock_use(connection: AsyncConnection) -> None:
    """Let no other transaction change what jobs use together, or the length of the queue, until this one ends."""
    if connection.dialect.name == "postgresql":
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


async def check_queue(connection: AsyncConnection, owner: str, caps: QueueCaps) -> None:
    """Check that one more job may be queued, in the transaction that queues it. Raises QueueFullError."""
    await lock_use(connection)
    if math.isfinite(caps.per_user):
        own = select(func.count()).where(_queued, jobs.c.owner == owner)
        if int((await connection.execute(own)).scalar_one()) >= caps.per_user:
            raise QueueFullError(
                f"{owner} has {caps.per_user:,g} queued jobs, the most that a user may have (--max-queued-per-user): "
                "wait until some have started, or cancel some"
            )
    if math.isfinite(caps.all):
        count = int((await connection.execute(select(func.count()).where(_queued))).scalar_one())
        if count >= caps.all:
            raise QueueFullError(
                f"{count:,} jobs are queued, and the queue takes {caps.all:,g} (--max-queued): submit again once some "
                "have started"
            )


async def check_uses(connection: AsyncConnection, uses: Collection[str]) -> None:
    """Check that the jobs whose files a job names exist, and keep them until the end of the transaction.

    Raises UsedJobGoneError.
    """
    if not uses:
        return
    query = select(jobs.c.id).where(jobs.c.id.in_(sorted(uses)), jobs.c.removal_at.is_(None)).with_for_update()
    gone = set(uses) - set((await connection.execute(query)).scalars())
    if gone:
        raise UsedJobGoneError(f"the job names files of job {min(gone)}, which was removed; correct the path")


async def _active_jobs(connection: AsyncConnection) -> tuple[JobRecord, ...]:
    rows = await connection.execute(select(jobs).where(_active).order_by(jobs.c.seq))
    return tuple(record_of(row) for row in rows)


def _ordered(query: Select[tuple[int, str, str, int, float, int]]) -> Select[tuple[int, str, str, int, float, int]]:
    return query.where(_queued).order_by(jobs.c.priority.desc(), jobs.c.seq)

"""The part of the store for jobs.

Invariants: a job's state changes only from the state the caller expects, along `ALLOWED`, and together with the row in
its history, so that of two concurrent changes one fails. The same idempotency key never creates two jobs.
"""

import hashlib
import json
import uuid
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from orchestrator.job.demand import max_gpus
from orchestrator.job.spec import JobSpec
from orchestrator.schemas.job_state import ACTIVE, ENDED, JobState
from orchestrator.service.store.database import Database
from orchestrator.service.store.job_rows import (
    StaleStateError,
    change_state,
    checked,
    from_cursor,
    job_with_id,
    job_with_key,
    record_of,
    record_transition,
    storable_text,
    to_cursor,
)
from orchestrator.service.store.records import JobPage, JobRecord, Transition
from orchestrator.service.store.tables import jobs, transitions


class JobStore:
    """Jobs and their history; see `Store`."""

    def __init__(self, database: Database, runs: Path) -> None:
        self._database, self._runs = database, runs

    async def submit(
        self,
        spec: JobSpec,
        *,
        owner: str,
        priority: int = 0,
        max_restarts: int = 3,
        idempotency_key: str | None = None,
        uses: Collection[str] = (),
        retry_of: str | None = None,
    ) -> tuple[JobRecord, bool]:
        """Queue a job.

        Args:
            uses: ids of the jobs whose run directories the job names.
            retry_of: the job that it repeats.

        Returns:
            The job, and whether it is new: False if its owner has used the idempotency key for the same job before.

        Raises:
            IdempotencyError: the owner used the key for another job.
        """
        value = spec.model_dump(mode="json")
        body = json.dumps([value, priority, max_restarts], sort_keys=True)
        body_hash = hashlib.sha256(body.encode()).hexdigest()
        now, identifier = datetime.now(UTC), uuid.uuid4().hex[:16]
        try:
            async with self._database.write() as connection:
                earlier = await job_with_key(connection, owner, idempotency_key, body_hash)
                if earlier is not None:
                    return earlier, False
                await connection.execute(
                    insert(jobs).values(
                        id=identifier,
                        name=spec.name,
                        owner=owner,
                        state=JobState.QUEUED.value,
                        priority=priority,
                        spec=value,
                        gpus=max_gpus(spec),
                        created_at=now,
                        updated_at=now,
                        attempt=0,
                        restarts=0,
                        max_restarts=max_restarts,
                        run_dir=str(self._runs / identifier),
                        idempotency_key=idempotency_key,
                        body_hash=body_hash,
                        uses=sorted(uses) or None,
                        retry_of=retry_of,
                    )
                )
                await record_transition(connection, identifier, None, JobState.QUEUED, now, None)
                return await job_with_id(connection, identifier), True
        except IntegrityError:
            # Another process used the key at the same time.
            async with self._database.read() as connection:
                earlier = await job_with_key(connection, owner, idempotency_key, body_hash)
            if earlier is None:
                raise
            return earlier, False

    async def get(self, job_id: str) -> JobRecord:
        """Return one job. Raises JobNotFoundError."""
        async with self._database.read() as connection:
            return await job_with_id(connection, job_id)

    async def list(
        self,
        *,
        states: Collection[JobState] = (),
        owner: str | None = None,
        name: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """Return a page of jobs, newest first; in any state without `states`. Raises CursorError."""
        query = select(jobs).order_by(jobs.c.seq.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(jobs.c.seq < from_cursor(cursor))
        if states:
            query = query.where(jobs.c.state.in_([state.value for state in states]))
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if name is not None:
            query = query.where(jobs.c.name == name)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        more = len(rows) > limit
        return JobPage(tuple(record_of(row) for row in rows[:limit]), to_cursor(rows[limit - 1].seq) if more else None)

    async def unended(self) -> tuple[JobRecord, ...]:
        """Return every job that has not ended, in order of submission."""
        states = [state.value for state in JobState if state not in ENDED]
        query = select(jobs).where(jobs.c.state.in_(states)).order_by(jobs.c.seq)
        async with self._database.read() as connection:
            return tuple(record_of(row) for row in await connection.execute(query))

    async def counts(self) -> dict[JobState, int]:
        """Return the number of jobs in every state."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))
            return dict.fromkeys(JobState, 0) | {JobState(state): count for state, count in rows}

    async def history(self, job_id: str) -> tuple[Transition, ...]:
        """Return a job's changes of state in order. Raises JobNotFoundError."""
        query = select(transitions).where(transitions.c.job_id == job_id).order_by(transitions.c.seq)
        async with self._database.read() as connection:
            await job_with_id(connection, job_id)
            rows = (await connection.execute(query)).all()
        return tuple(
            Transition(JobState(row.from_state) if row.from_state else None, JobState(row.to_state), row.at, row.cause)
            for row in rows
        )

    async def transition(
        self,
        job_id: str,
        expected: JobState | Collection[JobState],
        to: JobState,
        cause: str | None = None,
        **fields: Any,
    ) -> JobRecord:
        """Change a job's state, its cause, and other columns (`fields`).

        Raises:
            JobNotFoundError, StaleStateError: nothing was changed.
            TransitionError: the change of state is not allowed.
        """
        expected = {expected} if isinstance(expected, JobState) else set(expected)
        async with self._database.write() as connection:
            return await change_state(
                connection, await job_with_id(connection, job_id, lock=True), expected, to, cause, fields
            )

    async def begin_attempt(self, job: JobRecord) -> JobRecord:
        """Assign the next submission id to a queued or recovering job; the caller then starts its driver.

        The new `submission_id` names job and attempt, so that one attempt never has two drivers.

        Raises:
            JobNotFoundError, StaleStateError: the job has changed since the caller read it; nothing was changed.
        """
        async with self._database.write() as connection:
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
                return await change_state(connection, now, {now.state}, JobState.STARTING, None, fields)
            if now.state is not JobState.RECOVERING or now.not_before is None:
                raise StaleStateError(now, {JobState.QUEUED, JobState.RECOVERING})
            await connection.execute(update(jobs).where(jobs.c.id == job.id).values(**fields))
            return await job_with_id(connection, job.id)

    async def update(self, job_id: str, **fields: Any) -> JobRecord:
        """Change columns of a job other than its state. Raises JobNotFoundError."""
        async with self._database.write() as connection:
            await connection.execute(update(jobs).where(jobs.c.id == job_id).values(**checked(fields)))
            return await job_with_id(connection, job_id)

    async def request_cancel(self, job_id: str, cause: str) -> JobRecord:
        """Cancel a job: immediately if it is queued, otherwise once its driver has ended.

        A job that has ended or is being cancelled is not changed. Raises JobNotFoundError.
        """
        async with self._database.write() as connection:
            job = await job_with_id(connection, job_id, lock=True)
            if job.state is JobState.QUEUED:
                return await change_state(connection, job, {job.state}, JobState.CANCELLED, cause, {})
            if job.state in ACTIVE and job.cancel_requested_at is None:
                now = datetime.now(UTC)
                await connection.execute(
                    update(jobs)
                    .where(jobs.c.id == job_id)
                    .values(cancel_requested_at=now, updated_at=now, cause=storable_text(cause))
                )
            return await job_with_id(connection, job_id)

    async def ended_before(self, time: datetime, limit: int = 100) -> tuple[JobRecord, ...]:
        """Return the jobs that ended before a time, oldest first."""
        ended = jobs.c.state.in_([state.value for state in ENDED]) & (jobs.c.finished_at < time)
        query = select(jobs).where(ended).order_by(jobs.c.finished_at).limit(limit)
        async with self._database.read() as connection:
            return tuple(record_of(row) for row in await connection.execute(query))

    async def remove(self, job_id: str) -> None:
        """Remove a job that has ended, with its history. Raises JobNotFoundError, StaleStateError."""
        async with self._database.write() as connection:
            job = await job_with_id(connection, job_id, lock=True)
            if job.state not in ENDED:
                raise StaleStateError(job, ENDED)
            await connection.execute(delete(jobs).where(jobs.c.id == job_id))

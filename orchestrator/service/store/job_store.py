"""The part of the store for jobs.

Invariants: a job's state changes only from the state the caller expects, along `ALLOWED`, and together with the row in
its history, so that of two concurrent changes one fails. The same idempotency key never creates two jobs.
"""

import hashlib
import json
import uuid
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Text, cast, delete, func, insert, select, union_all, update
from sqlalchemy.exc import IntegrityError

from orchestrator.job.demand import max_gpus
from orchestrator.job.spec import JobSpec
from orchestrator.schemas.job_state import ENDED, JobState
from orchestrator.service.store.database import Database
from orchestrator.service.store.job_rows import (
    JobInUseError,
    StaleStateError,
    change_state,
    checked,
    from_cursor,
    job_with_id,
    job_with_key,
    record_of,
    record_transition,
    to_cursor,
)
from orchestrator.service.store.queue_store import QueueCaps, check_queue, check_uses
from orchestrator.service.store.records import JobPage, JobRecord, Transition
from orchestrator.service.store.request_store import DoneRequest, RequestKey, remember
from orchestrator.service.store.tables import jobs, requests, transitions


class JobStore:
    """Jobs and their history; see `Store`."""

    def __init__(self, database: Database, runs: Path, caps: QueueCaps) -> None:
        self._database, self._runs, self._caps = database, runs, caps

    async def submit(
        self,
        spec: JobSpec,
        *,
        owner: str,
        priority: int = 0,
        max_restarts: int = 3,
        idempotency_key: str | None = None,
        request: RequestKey | None = None,
        uses: Collection[str] = (),
    ) -> tuple[JobRecord, bool]:
        """Queue a job.

        Args:
            request: the request that asks for it, to be remembered. Its key is the job's idempotency key.
            uses: ids of the jobs whose run directories the job names.

        Returns:
            The job, and whether it is new: False if its owner has used the idempotency key for the same job before.

        Raises:
            IdempotencyError: the owner used the key for another job.
            QueueFullError: too many jobs are queued.
            UsedJobGoneError: a job that it uses was removed.
        """
        value = spec.model_dump(mode="json")
        body = json.dumps([value, priority, max_restarts], sort_keys=True)
        body_hash = hashlib.sha256(body.encode()).hexdigest()
        now, identifier = datetime.now(UTC), uuid.uuid4().hex[:16]
        if request is not None:
            idempotency_key = request.key
        try:
            async with self._database.write() as connection:
                earlier = await job_with_key(connection, owner, idempotency_key, body_hash, value)
                if earlier is not None:
                    return earlier, False
                await check_queue(connection, owner, self._caps)
                await check_uses(connection, uses)
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
                        uses=sorted(uses),
                    )
                )
                await record_transition(connection, identifier, None, JobState.QUEUED, now, None)
                if request is not None:
                    await remember(connection, request, DoneRequest(201, identifier))
                return await job_with_id(connection, identifier), True
        except IntegrityError:
            # Another process used the key at the same time.
            async with self._database.read() as connection:
                earlier = await job_with_key(connection, owner, idempotency_key, body_hash, value)
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
        found = [column == value for column, value in ((jobs.c.owner, owner), (jobs.c.name, name)) if value is not None]
        if cursor is not None:
            found.append(jobs.c.seq < from_cursor(cursor))
        query = select(jobs).where(*found).order_by(jobs.c.seq.desc()).limit(limit + 1)
        if states:
            # The newest of each state, from an index: else all jobs are read that are in the other states.
            newest = (
                select(jobs.c.seq).where(*found, jobs.c.state == state.value).order_by(jobs.c.seq.desc())
                for state in states
            )
            parts = [select(part.limit(limit + 1).subquery().c.seq) for part in newest]
            query = query.where(jobs.c.seq.in_(union_all(*parts)))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        more = len(rows) > limit
        return JobPage(tuple(record_of(row) for row in rows[:limit]), to_cursor(rows[limit - 1].seq) if more else None)

    async def counts(self, owner: str | None = None) -> dict[JobState, int]:
        """Return the number of jobs in every state, of all owners or of one."""
        query = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        async with self._database.read() as connection:
            rows = await connection.execute(query)
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

    async def update(self, job_id: str, **fields: Any) -> JobRecord:
        """Change columns of a job other than its state. Raises JobNotFoundError."""
        async with self._database.write() as connection:
            await connection.execute(update(jobs).where(jobs.c.id == job_id).values(**checked(fields)))
            return await job_with_id(connection, job_id)

    async def ended_before(
        self, time: datetime, after: JobRecord | None = None, limit: int = 100
    ) -> tuple[JobRecord, ...]:
        """Return a page of the jobs that ended before a time, in order of submission.

        Args:
            after: the last job of the page before.
        """
        ended = jobs.c.state.in_([state.value for state in ENDED]) & (jobs.c.finished_at < time)
        query = select(jobs).where(ended, jobs.c.seq > (after.seq if after else 0)).order_by(jobs.c.seq).limit(limit)
        async with self._database.read() as connection:
            return tuple(record_of(row) for row in await connection.execute(query))

    async def begin_removal(self, job: JobRecord) -> None:
        """Let no other job name the files of a job that has ended, and let it stay ended, so that they can be removed.

        Raises:
            JobNotFoundError, StaleStateError: it has changed since it was read; nothing was changed.
            JobInUseError: jobs that have not ended name its files.
        """
        names = cast(jobs.c.uses, Text).contains(job.id, autoescape=True)
        # Jobs that were queued by version 0.1 have no list of what they use. For others the text does not count: in a
        # name or a prompt, anybody may write the id of a job, and it would never be removed.
        names |= jobs.c.uses.is_(None) & cast(jobs.c.spec, Text).contains(job.id, autoescape=True)
        unended = jobs.c.state.not_in([state.value for state in ENDED])
        using = select(jobs.c.id).where(unended, names).order_by(jobs.c.seq).limit(4)
        async with self._database.write() as connection:
            now = await job_with_id(connection, job.id, lock=True)
            if now.state not in ENDED or now.finished_at != job.finished_at:
                raise StaleStateError(now, ENDED)
            if now.removal_at is not None:
                return
            users = (await connection.execute(using)).scalars().all()
            if users:
                message = f"job {job.id} cannot be removed: its files are needed by {_listed(users)}"
                raise JobInUseError(message, users)
            await connection.execute(update(jobs).where(jobs.c.id == job.id).values(removal_at=datetime.now(UTC)))

    async def remove(self, job_id: str) -> None:
        """Remove a job that has ended, with its history and what is known of the requests for it; the audit log stays.

        Raises JobNotFoundError, StaleStateError.
        """
        async with self._database.write() as connection:
            job = await job_with_id(connection, job_id, lock=True)
            if job.state not in ENDED:
                raise StaleStateError(job, ENDED)
            await connection.execute(delete(requests).where(requests.c.job_id == job_id))
            await connection.execute(delete(jobs).where(jobs.c.id == job_id))


def _listed(ids: Sequence[str]) -> str:
    more = ", …" if len(ids) > 3 else ""
    return f"job{'s' if len(ids) > 1 else ''} {', '.join(ids[:3])}{more}"

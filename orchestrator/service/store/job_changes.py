"""The part of the store for changes that users ask for: another priority, a retry, a cancellation."""

from datetime import UTC, datetime

from sqlalchemy import update

from orchestrator.schemas.job_state import ACTIVE, ENDED, RETRIABLE, JobState
from orchestrator.service.store.database import Database
from orchestrator.service.store.job_rows import StaleStateError, change_state, job_with_id, storable_text
from orchestrator.service.store.queue_store import QueueCaps, check_queue, check_uses, lock_use
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.request_store import DoneRequest, RequestKey, remember
from orchestrator.service.store.tables import jobs


class JobChanges:
    """Changes to jobs; see `Store`. With a `request`, what it did is recorded with it, for a repetition of it."""

    _database: Database
    _caps: QueueCaps

    async def set_priority(self, job_id: str, priority: int, request: RequestKey | None = None) -> JobRecord:
        """Change the priority of a job that has not ended. Raises JobNotFoundError, StaleStateError."""
        async with self._database.write() as connection:
            job = await job_with_id(connection, job_id, lock=True)
            if job.state in ENDED:
                raise StaleStateError(job, set(JobState) - ENDED)
            values = {"priority": priority, "updated_at": datetime.now(UTC)}
            await connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))
            if request is not None:
                await remember(connection, request, DoneRequest(200, job_id))
            return await job_with_id(connection, job_id)

    async def retry(
        self, job_id: str, cause: str, uses: frozenset[str] = frozenset(), request: RequestKey | None = None
    ) -> JobRecord:
        """Queue a failed or cancelled job again: its next driver continues in its run directory.

        Args:
            uses: ids of the jobs whose run directories it names, as of now.

        Raises:
            JobNotFoundError, StaleStateError, QueueFullError, UsedJobGoneError: nothing was changed.
        """
        fields = dict.fromkeys(("submission_id", "not_before", "cancel_requested_at", "preempt_requested_at"))
        async with self._database.write() as connection:
            await lock_use(connection)
            job = await job_with_id(connection, job_id, lock=True)
            if job.state in RETRIABLE:
                await check_queue(connection, job.owner, self._caps)
                await check_uses(connection, uses)
            await change_state(connection, job, RETRIABLE, JobState.QUEUED, cause, {**fields, "restarts": 0})
            await connection.execute(update(jobs).where(jobs.c.id == job_id).values(uses=sorted(uses)))
            if request is not None:
                await remember(connection, request, DoneRequest(200, job_id))
            return await job_with_id(connection, job_id)

    async def request_cancel(self, job_id: str, cause: str, request: RequestKey | None = None) -> JobRecord:
        """Cancel a job: immediately if it is queued, otherwise once its driver has ended.

        A job that has ended or is being cancelled is not changed. Raises JobNotFoundError.
        """
        async with self._database.write() as connection:
            job = await job_with_id(connection, job_id, lock=True)
            if job.state is JobState.QUEUED:
                await change_state(connection, job, {job.state}, JobState.CANCELLED, cause, {})
            elif job.state in ACTIVE and job.cancel_requested_at is None:
                now = datetime.now(UTC)
                await connection.execute(
                    update(jobs)
                    .where(jobs.c.id == job_id)
                    .values(cancel_requested_at=now, updated_at=now, cause=storable_text(cause))
                )
            if request is not None:
                await remember(connection, request, DoneRequest(200, job_id))
            return await job_with_id(connection, job_id)

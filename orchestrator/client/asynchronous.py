"""The service's REST API as methods to await."""

import json
from asyncio import sleep
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from time import monotonic
from typing import Any, Literal

from orchestrator.client import calls
from orchestrator.client.async_connection import AsyncConnection
from orchestrator.client.errors import AnswerError, WaitTimeoutError
from orchestrator.job.spec import JobSpec
from orchestrator.schemas.about import AuditView, LimitsView, MeView, ValidationView, VersionView
from orchestrator.schemas.api import (
    CheckpointView,
    ClusterView,
    CommandView,
    EventView,
    HealthView,
    JobDetail,
    JobView,
    LogLine,
    MetricsView,
    Page,
    SampleView,
    WorkerPage,
)
from orchestrator.schemas.job_state import ENDED, JobState


class AsyncEarshotClient(AsyncConnection):
    """A connection to the service, and an asynchronous context manager that closes it.

    Every method raises ApiError if the service refuses the request, and UnreachableError if the service cannot be
    reached for `retry_seconds`.
    """

    async def submit(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        priority: int = 0,
        max_restarts: int | None = None,
        idempotency_key: str | None = None,
    ) -> JobView:
        """Submit a job to the queue. An `idempotency_key` that was used before returns the job created then."""
        return await self._do(calls.submit(spec, priority, max_restarts, idempotency_key))

    async def jobs(
        self,
        *,
        state: Sequence[JobState | str] = (),
        name: str | None = None,
        owner: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[JobView]:
        """List one page of jobs, newest first."""
        return await self._do(calls.jobs(state, name, owner, cursor, limit))

    async def all_jobs(
        self, *, state: Sequence[JobState | str] = (), name: str | None = None, owner: str | None = None
    ) -> AsyncIterator[JobView]:
        """Iterate over all jobs, newest first, one page at a time."""
        cursor = None
        while True:
            page = await self.jobs(state=state, name=name, owner=owner, cursor=cursor, limit=200)
            for job in page.items:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def job(self, job_id: str) -> JobDetail:
        """Return a job with its history."""
        return await self._do(calls.job(job_id))

    async def validate(self, spec: JobSpec | Mapping[str, Any]) -> ValidationView:
        """Check a job as its submission would, and return it as it would be queued."""
        return await self._do(calls.validate(spec))

    async def cancel(self, job_id: str) -> JobView:
        """Cancel a job in any state. A running job ends soon after."""
        return await self._do(calls.cancel(job_id))

    async def pause(self, job_id: str) -> CommandView:
        """Pause a running job after the current step."""
        return await self._do(calls.command(job_id, "pause"))

    async def resume(self, job_id: str) -> CommandView:
        """Resume a paused job."""
        return await self._do(calls.command(job_id, "resume"))

    async def checkpoint(self, job_id: str) -> CommandView:
        """Write a checkpoint of a running job after the current step."""
        return await self._do(calls.command(job_id, "checkpoint"))

    async def retry(self, job_id: str) -> JobView:
        """Queue a failed or cancelled job again. It continues from its last checkpoint."""
        return await self._do(calls.retry(job_id))

    async def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with its run directory."""
        call = calls.delete(job_id)
        response = await self._send(call.method, call.path, headers=call.headers)
        if response.status_code != HTTPStatus.NO_CONTENT:
            raise AnswerError(self.url)

    async def set_priority(self, job_id: str, priority: int) -> JobView:
        """Change the priority of a job that has not ended."""
        return await self._do(calls.set_priority(job_id, priority))

    async def scale(self, job_id: str, count: int) -> CommandView:
        """Change the number of rollout workers of a job."""
        return await self._do(calls.scale(job_id, count))

    async def workers(self, job_id: str) -> WorkerPage:
        """List the rollout workers of a job."""
        return await self._do(calls.workers(job_id))

    async def metrics(
        self, job_id: str, *, since_step: int | None = None, names: Sequence[str] | None = None, points: int = 1000
    ) -> MetricsView:
        """Return metrics by step, after `since_step` if given, in at most `points` rows."""
        return await self._do(calls.metrics(job_id, since_step, names, points))

    async def samples(
        self,
        job_id: str,
        *,
        step: int | None = None,
        order: Literal["newest", "oldest"] = "newest",
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[SampleView]:
        """List one page of scored completions."""
        return await self._do(calls.samples(job_id, step, order, cursor, limit))

    async def audio(self, job_id: str, sample_id: str) -> bytes:
        """Download the audio file of a sample's clip."""
        response = await self._send("GET", calls.audio_path(job_id, sample_id))
        self._check_kind(response, "audio/")
        return response.content

    async def checkpoints(self, job_id: str) -> list[CheckpointView]:
        """List the checkpoints of a job, newest first."""
        page = await self._do(calls.checkpoints(job_id))
        return page.items

    async def events(
        self, job_id: str, *, cursor: str | None = None, tail: int | None = None, limit: int = 1000
    ) -> Page[EventView]:
        """List one page of a job's events, oldest first. `tail` starts that many events before the end."""
        return await self._do(calls.events(job_id, cursor, tail, limit))

    async def logs(
        self, job_id: str, *, cursor: str | None = None, tail: int | None = None, limit: int = 1000
    ) -> Page[LogLine]:
        """List one page of a job's log lines, oldest first. `tail` starts that many lines before the end."""
        return await self._do(calls.logs(job_id, cursor, tail, limit))

    async def cluster(self) -> ClusterView:
        """Return the nodes of the cluster, their GPUs and the jobs that use them."""
        return await self._do(calls.cluster())

    async def version(self) -> VersionView:
        """Return the versions of the service."""
        return await self._do(calls.version())

    async def me(self) -> MeView:
        """Return the user of the token, their role and the number of their jobs."""
        return await self._do(calls.me())

    async def limits(self) -> LimitsView:
        """Return what the service allows."""
        return await self._do(calls.limits())

    async def audit(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        since: datetime | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[AuditView]:
        """List one page of what was done or refused, newest first; `since` without a time zone is local time."""
        return await self._do(calls.audit(actor, action, target, since, cursor, limit))

    async def health(self) -> HealthView:
        """Return whether the service is alive. Needs no token."""
        return await self._do(calls.health())

    async def wait(
        self,
        job_id: str,
        *,
        states: Sequence[JobState | str] = tuple(ENDED),
        timeout: float | None = None,
        poll_seconds: float = 1.0,
    ) -> JobDetail:
        """Wait until a job reaches one of the states or ends, and return it.

        Raises:
            WaitTimeoutError: neither happened within `timeout` seconds.
        """
        wanted = {str(state) for state in states} | {str(state) for state in ENDED}
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            job = await self.job(job_id)
            if str(job.state) in wanted:
                return job
            if deadline is not None and monotonic() + poll_seconds > deadline:
                raise WaitTimeoutError(f"job {job_id} is still {job.state} after {timeout:g} s")
            await sleep(poll_seconds)

    async def stream_events(
        self, job_id: str, *, after: str | None = None, tail: int | None = None
    ) -> AsyncIterator[EventView]:
        """Stream a job's events until it ends. Each event arrives once, even if the connection drops.

        Args:
            after: `cursor` of an event; the stream starts with the next one.
            tail: start that many events before the end; by default at the first event.
        """
        async for event in self._stream(job_id, "events", after, tail):
            yield EventView.model_validate(json.loads(event.data) | {"cursor": event.id})

    async def stream_logs(
        self, job_id: str, *, after: str | None = None, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        """Stream a job's log lines until it ends. Arguments as for `stream_events`."""
        async for event in self._stream(job_id, "logs", after, tail):
            yield LogLine(cursor=event.id, text=event.data)

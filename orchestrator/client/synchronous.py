# Generated from asynchronous.py by generate.py: do not edit, run `make client`.
"""The service's REST API as methods that block."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from time import monotonic, sleep
from typing import Any, Literal

from orchestrator.client import calls
from orchestrator.client.errors import AnswerError, WaitTimeoutError
from orchestrator.client.sync_connection import SyncConnection
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


class EarshotClient(SyncConnection):
    """A connection to the service, and a context manager that closes it.

    Every method raises ApiError if the service refuses the request, and UnreachableError if the service cannot be
    reached for `retry_seconds`.
    """

    def submit(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        priority: int = 0,
        max_restarts: int | None = None,
        idempotency_key: str | None = None,
    ) -> JobView:
        """Submit a job to the queue. An `idempotency_key` that was used before returns the job created then."""
        return self._do(calls.submit(spec, priority, max_restarts, idempotency_key))

    def jobs(
        self,
        *,
        state: Sequence[JobState | str] = (),
        name: str | None = None,
        owner: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[JobView]:
        """List one page of jobs, newest first."""
        return self._do(calls.jobs(state, name, owner, cursor, limit))

    def all_jobs(
        self, *, state: Sequence[JobState | str] = (), name: str | None = None, owner: str | None = None
    ) -> Iterator[JobView]:
        """Iterate over all jobs, newest first, one page at a time."""
        cursor = None
        while True:
            page = self.jobs(state=state, name=name, owner=owner, cursor=cursor, limit=200)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def job(self, job_id: str) -> JobDetail:
        """Return a job with its history."""
        return self._do(calls.job(job_id))

    def validate(self, spec: JobSpec | Mapping[str, Any]) -> ValidationView:
        """Check a job as its submission would, and return it as it would be queued."""
        return self._do(calls.validate(spec))

    def cancel(self, job_id: str) -> JobView:
        """Cancel a job in any state. A running job ends soon after."""
        return self._do(calls.cancel(job_id))

    def pause(self, job_id: str) -> CommandView:
        """Pause a running job after the current step."""
        return self._do(calls.command(job_id, "pause"))

    def resume(self, job_id: str) -> CommandView:
        """Resume a paused job."""
        return self._do(calls.command(job_id, "resume"))

    def checkpoint(self, job_id: str) -> CommandView:
        """Write a checkpoint of a running job after the current step."""
        return self._do(calls.command(job_id, "checkpoint"))

    def retry(self, job_id: str) -> JobView:
        """Queue a failed or cancelled job again. It continues from its last checkpoint."""
        return self._do(calls.retry(job_id))

    def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with its run directory."""
        call = calls.delete(job_id)
        response = self._send(call.method, call.path, headers=call.headers)
        if response.status_code != HTTPStatus.NO_CONTENT:
            raise AnswerError(self.url)

    def set_priority(self, job_id: str, priority: int) -> JobView:
        """Change the priority of a job that has not ended."""
        return self._do(calls.set_priority(job_id, priority))

    def scale(self, job_id: str, count: int) -> CommandView:
        """Change the number of rollout workers of a job."""
        return self._do(calls.scale(job_id, count))

    def workers(self, job_id: str) -> WorkerPage:
        """List the rollout workers of a job."""
        return self._do(calls.workers(job_id))

    def metrics(
        self, job_id: str, *, since_step: int | None = None, names: Sequence[str] | None = None, points: int = 1000
    ) -> MetricsView:
        """Return metrics by step, after `since_step` if given, in at most `points` rows."""
        return self._do(calls.metrics(job_id, since_step, names, points))

    def samples(
        self,
        job_id: str,
        *,
        step: int | None = None,
        order: Literal["newest", "oldest"] = "newest",
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[SampleView]:
        """List one page of scored completions."""
        return self._do(calls.samples(job_id, step, order, cursor, limit))

    def audio(self, job_id: str, sample_id: str) -> bytes:
        """Download the audio file of a sample's clip."""
        response = self._send("GET", calls.audio_path(job_id, sample_id))
        self._check_kind(response, "audio/")
        return response.content

    def checkpoints(self, job_id: str) -> list[CheckpointView]:
        """List the checkpoints of a job, newest first."""
        page = self._do(calls.checkpoints(job_id))
        return page.items

    def events(
        self, job_id: str, *, cursor: str | None = None, tail: int | None = None, limit: int = 1000
    ) -> Page[EventView]:
        """List one page of a job's events, oldest first. `tail` starts that many events before the end."""
        return self._do(calls.events(job_id, cursor, tail, limit))

    def logs(
        self, job_id: str, *, cursor: str | None = None, tail: int | None = None, limit: int = 1000
    ) -> Page[LogLine]:
        """List one page of a job's log lines, oldest first. `tail` starts that many lines before the end."""
        return self._do(calls.logs(job_id, cursor, tail, limit))

    def cluster(self) -> ClusterView:
        """Return the nodes of the cluster, their GPUs and the jobs that use them."""
        return self._do(calls.cluster())

    def version(self) -> VersionView:
        """Return the versions of the service."""
        return self._do(calls.version())

    def me(self) -> MeView:
        """Return the user of the token, their role and the number of their jobs."""
        return self._do(calls.me())

    def limits(self) -> LimitsView:
        """Return what the service allows."""
        return self._do(calls.limits())

    def audit(
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
        return self._do(calls.audit(actor, action, target, since, cursor, limit))

    def health(self) -> HealthView:
        """Return whether the service is alive. Needs no token."""
        return self._do(calls.health())

    def wait(
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
            job = self.job(job_id)
            if str(job.state) in wanted:
                return job
            if deadline is not None and monotonic() + poll_seconds > deadline:
                raise WaitTimeoutError(f"job {job_id} is still {job.state} after {timeout:g} s")
            sleep(poll_seconds)

    def stream_events(self, job_id: str, *, after: str | None = None, tail: int | None = None) -> Iterator[EventView]:
        """Stream a job's events until it ends. Each event arrives once, even if the connection drops.

        Args:
            after: `cursor` of an event; the stream starts with the next one.
            tail: start that many events before the end; by default at the first event.
        """
        for event in self._stream(job_id, "events", after, tail):
            yield EventView.model_validate(json.loads(event.data) | {"cursor": event.id})

    def stream_logs(self, job_id: str, *, after: str | None = None, tail: int | None = None) -> Iterator[LogLine]:
        """Stream a job's log lines until it ends. Arguments as for `stream_events`."""
        for event in self._stream(job_id, "logs", after, tail):
            yield LogLine(cursor=event.id, text=event.data)

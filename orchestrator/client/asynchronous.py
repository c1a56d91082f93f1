"""The service's REST API as methods to await."""

import json
from asyncio import sleep
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any, Literal, Self, TypeVar

import httpx
from pydantic import BaseModel
from tenacity import AsyncRetrying, stop_before_delay

from orchestrator.client import calls
from orchestrator.client.address import address
from orchestrator.client.calls import ApiRequest
from orchestrator.client.errors import UnreachableError, WaitTimeoutError, error_of
from orchestrator.client.retry import reconnect_delay, retry_if_safe, wait_for_service
from orchestrator.client.sse import EventDecoder, ServerSentEvent
from orchestrator.job.spec import JobSpec
from orchestrator.schemas.api import (
    CheckpointView,
    ClusterView,
    CommandView,
    EventView,
    JobDetail,
    JobView,
    LogLine,
    MetricsView,
    Page,
    SampleView,
    WorkerPage,
)
from orchestrator.schemas.job_state import ENDED, JobState

Result = TypeVar("Result", bound=BaseModel)

# The service sends a heartbeat on every stream each 15 s.
_STREAM_TIMEOUT = httpx.Timeout(10, read=60)


class AsyncEarshotClient:
    """A connection to the service, and an asynchronous context manager that closes it.

    Every method raises ApiError if the service refuses the request, and UnreachableError if the service cannot be
    reached for `retry_seconds`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 30,
        retry_seconds: float = 30,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """
        Args:
            url, token: default to EARSHOT_URL and EARSHOT_TOKEN.
            timeout: seconds for one attempt.
            retry_seconds: how long to retry a request that is safe to repeat; 0 disables retries.

        Raises:
            AddressError: the URL or the token is not valid.
        """
        base, headers = address(url, token)
        self._retry_seconds = retry_seconds
        self._http = httpx.AsyncClient(base_url=base, headers=headers, timeout=timeout, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

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

    async def _do(self, call: ApiRequest[Result]) -> Result:
        response = await self._send(
            call.method,
            call.path,
            repeatable=call.repeatable,
            params=call.params,
            json=call.body,
            headers=call.headers,
        )
        return call.result.model_validate_json(response.content)

    async def _send(
        self, method: str, path: str, *, repeatable: bool = True, stream: bool = False, **options: Any
    ) -> httpx.Response:
        """Send a request, again while that is safe and the time allows, and return a successful response."""
        retrying = AsyncRetrying(
            retry=retry_if_safe(repeatable),
            wait=wait_for_service,
            stop=stop_before_delay(self._retry_seconds),
            reraise=True,
        )
        try:
            response: httpx.Response = await retrying(self._attempt, method, path, stream, options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        return response

    async def _attempt(self, method: str, path: str, stream: bool, options: Mapping[str, Any]) -> httpx.Response:
        response = await self._http.send(self._http.build_request(method, path, **options), stream=stream)
        if not response.is_success:
            await response.aread()
            raise error_of(response)
        return response

    async def _stream(
        self, job_id: str, source: Literal["events", "logs"], after: str | None, tail: int | None
    ) -> AsyncIterator[ServerSentEvent]:
        disconnected_at: float | None = None
        while True:
            params = {} if tail is None or after is not None else {"tail": tail}
            headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": after})
            path = calls.stream_path(job_id, source)
            response = await self._send(
                "GET", path, stream=True, params=params, headers=headers, timeout=_STREAM_TIMEOUT
            )
            async with aclosing(response):
                decoder = EventDecoder()
                try:
                    async for chunk in response.aiter_bytes():
                        disconnected_at = None
                        for event in decoder.feed(chunk):
                            if event.name == "end":
                                return
                            after = event.id
                            yield event
                except httpx.TransportError as error:
                    disconnected_at = disconnected_at or monotonic()
                    if monotonic() - disconnected_at >= self._retry_seconds:
                        raise self._unreachable(error) from error
            # Also after the longest duration of a stream: the next one continues after the last event.
            await sleep(reconnect_delay())

    def _unreachable(self, error: httpx.TransportError) -> UnreachableError:
        url = str(self._http.base_url).rstrip("/")
        return UnreachableError(f"no service answers at {url} ({str(error) or type(error).__name__})")

"""The client for asyncio: the methods of `EarshotClient`, to be awaited."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, Self, TypeVar

import httpx
from pydantic import BaseModel

from orchestrator.client import calls
from orchestrator.client.address import address
from orchestrator.client.calls import ApiRequest
from orchestrator.client.errors import ApiError, UnreachableError, WaitTimeoutError, error_of
from orchestrator.client.retry import Retry
from orchestrator.client.sse import Decoder, Sent
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

# A stream has a heartbeat every 15 s.
_STREAM_TIMEOUT = httpx.Timeout(10, read=60)


class AsyncEarshotClient:
    """A connection to a service; an asynchronous context manager.

    Every method raises ApiError where the service refuses, and UnreachableError where it cannot be reached for
    `retry_seconds`.
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
            url, token: by default EARSHOT_URL, EARSHOT_TOKEN.
            timeout: seconds for one attempt.
            retry_seconds: how long what can be repeated is repeated; 0 never.

        Raises:
            ClientError: the URL is none.
        """
        base, headers = address(url, token)
        self._retry_seconds = retry_seconds
        self._http = httpx.AsyncClient(base_url=base, headers=headers, timeout=timeout, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def submit(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        priority: int = 0,
        max_restarts: int | None = None,
        idempotency_key: str | None = None,
    ) -> JobView:
        """Put a job in the queue. With an `idempotency_key` that was used before, it is the job of then."""
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
        """A part of the jobs, newest first."""
        return await self._do(calls.jobs(state, name, owner, cursor, limit))

    async def all_jobs(
        self, *, state: Sequence[JobState | str] = (), name: str | None = None, owner: str | None = None
    ) -> AsyncIterator[JobView]:
        """Every job, newest first, asked for in parts."""
        cursor = None
        while True:
            page = await self.jobs(state=state, name=name, owner=owner, cursor=cursor, limit=200)
            for job in page.items:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def job(self, job_id: str) -> JobDetail:
        """One job, its history included."""
        return await self._do(calls.job(job_id))

    async def cancel(self, job_id: str) -> JobView:
        """End a job in any state; one that runs ends soon after."""
        return await self._do(calls.cancel(job_id))

    async def pause(self, job_id: str) -> CommandView:
        """Have a running job wait behind its step."""
        return await self._do(calls.tell(job_id, "pause"))

    async def resume(self, job_id: str) -> CommandView:
        """Let a paused job go on."""
        return await self._do(calls.tell(job_id, "resume"))

    async def checkpoint(self, job_id: str) -> CommandView:
        """Have a running job write a checkpoint behind its step."""
        return await self._do(calls.tell(job_id, "checkpoint"))

    async def scale(self, job_id: str, count: int) -> CommandView:
        """Have a job use another number of rollout workers."""
        return await self._do(calls.scale(job_id, count))

    async def workers(self, job_id: str) -> WorkerPage:
        """The rollout workers of a job."""
        return await self._do(calls.workers(job_id))

    async def metrics(
        self, job_id: str, *, since_step: int | None = None, names: Sequence[str] | None = None, points: int = 1000
    ) -> MetricsView:
        """Metrics over steps, those behind `since_step`, in at most `points` rows."""
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
        """A part of the scored completions."""
        return await self._do(calls.samples(job_id, step, order, cursor, limit))

    async def audio(self, job_id: str, sample_id: str) -> bytes:
        """The clip that a sample's question is about, as its file."""
        return (await self._send("GET", calls.audio_path(job_id, sample_id), repeatable=True)).content

    async def checkpoints(self, job_id: str) -> list[CheckpointView]:
        """The checkpoints of a job, newest first."""
        return (await self._do(calls.checkpoints(job_id))).items

    async def events(
        self, job_id: str, *, cursor: str | None = None, tail: int | None = None, limit: int = 1000
    ) -> Page[EventView]:
        """A part of a job's events, oldest first; `tail` begins so many before the end."""
        return await self._do(calls.events(job_id, cursor, tail, limit))

    async def logs(
        self, job_id: str, *, cursor: str | None = None, tail: int | None = None, limit: int = 1000
    ) -> Page[LogLine]:
        """A part of a job's log, oldest first; `tail` begins so many lines before the end."""
        return await self._do(calls.logs(job_id, cursor, tail, limit))

    async def cluster(self) -> ClusterView:
        """Nodes, GPUs, and who uses them."""
        return await self._do(calls.cluster())

    async def wait(
        self,
        job_id: str,
        *,
        states: Sequence[JobState | str] = tuple(ENDED),
        timeout: float | None = None,
        poll_seconds: float = 1.0,
    ) -> JobDetail:
        """The job once it is in one of the states, or has ended in another one.

        Raises:
            WaitTimeoutError: it is not after `timeout` seconds.
        """
        wanted = {str(state) for state in states} | {str(state) for state in ENDED}
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = await self.job(job_id)
            if str(job.state) in wanted:
                return job
            if deadline is not None and time.monotonic() + poll_seconds > deadline:
                raise WaitTimeoutError(f"job {job_id} is {job.state} still, after {timeout:g} s")
            await asyncio.sleep(poll_seconds)

    async def stream_events(
        self, job_id: str, *, after: str | None = None, tail: int | None = None
    ) -> AsyncIterator[EventView]:
        """A job's events as they happen, until it has ended; each once, also if the connection drops meanwhile.

        Args:
            after: `cursor` of an event to begin behind.
            tail: begin so many events before the end; by default at the first.
        """
        async for sent in self._stream(job_id, "events", after, tail):
            yield EventView.model_validate(json.loads(sent.data) | {"cursor": sent.id})

    async def stream_logs(
        self, job_id: str, *, after: str | None = None, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        """A job's log as it is written, likewise."""
        async for sent in self._stream(job_id, "logs", after, tail):
            yield LogLine(cursor=sent.id, text=sent.data)

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

    async def _send(self, method: str, path: str, *, repeatable: bool, **more: Any) -> httpx.Response:
        retry = Retry(self._retry_seconds, repeatable)
        while True:
            try:
                response = await self._http.request(method, path, **more)
            except httpx.TransportError as error:
                pause = retry.after_error(error)
                if pause is None:
                    raise self._unreachable(error) from error
            else:
                if response.is_success:
                    return response
                pause = retry.after_answer(response)
                if pause is None:
                    raise error_of(response)
            await asyncio.sleep(pause)

    async def _stream(
        self, job_id: str, what: Literal["events", "logs"], after: str | None, tail: int | None
    ) -> AsyncIterator[Sent]:
        retry = Retry(self._retry_seconds, repeatable=True)
        while True:
            try:
                async with self._opened(job_id, what, after, tail) as response:
                    decoder = Decoder()
                    async for piece in response.aiter_bytes():
                        for sent in decoder.feed(piece):
                            if sent.name == "end":
                                return
                            after, retry = sent.id, Retry(self._retry_seconds, repeatable=True)
                            yield sent
                # Streams have a longest time: the next one goes on there.
                pause = 0.0
            except httpx.TransportError as error:
                again = retry.after_error(error)
                if again is None:
                    raise self._unreachable(error) from error
                pause = again
            except ApiError as error:
                again = retry.after_answer(httpx.Response(error.status))
                if again is None:
                    raise
                pause = again
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def _opened(
        self, job_id: str, what: Literal["events", "logs"], after: str | None, tail: int | None
    ) -> AsyncIterator[httpx.Response]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after is not None else {})
        params = {} if tail is None or after is not None else {"tail": tail}
        path = calls.stream_path(job_id, what)
        async with self._http.stream("GET", path, headers=headers, params=params, timeout=_STREAM_TIMEOUT) as response:
            if not response.is_success:
                await response.aread()
                raise error_of(response)
            yield response

    def _unreachable(self, error: httpx.TransportError) -> UnreachableError:
        url = str(self._http.base_url).rstrip("/")
        return UnreachableError(f"no service answers at {url} ({str(error) or type(error).__name__})")

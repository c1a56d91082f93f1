"""Requests to the service over HTTP, sent again while that is useful: what the methods of a client are made of."""

from asyncio import sleep
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any, Literal, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying, stop_before_delay

from audio_qa.errors import shown
from orchestrator.client import calls
from orchestrator.client.address import address
from orchestrator.client.calls import ApiRequest
from orchestrator.client.errors import AnswerError, error_of, unreachable
from orchestrator.client.retry import reconnect_delay, retry_if_useful, wait_for_service
from orchestrator.client.sse import EventDecoder, ServerSentEvent

Result = TypeVar("Result", bound=BaseModel)

# The service sends a heartbeat on every stream each 15 s.
_STREAM_TIMEOUT = httpx.Timeout(10, read=60)


class AsyncConnection:
    """A connection to the service, closed by its context manager."""

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
            retry_seconds: how long to retry a request; 0 disables retries. No request has a second effect: each has
                an idempotency key.

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

    async def _do(self, call: ApiRequest[Result]) -> Result:
        response = await self._send(
            call.method,
            call.path,
            params=call.params,
            json=call.body,
            headers=call.headers,
        )
        try:
            return call.result.model_validate_json(response.content)
        except ValidationError as error:
            raise AnswerError(self.url) from error

    async def _send(self, method: str, path: str, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, again while that is safe and the time allows, and return a successful response."""
        retrying = AsyncRetrying(
            retry=retry_if_useful,
            wait=wait_for_service,
            stop=stop_before_delay(self._retry_seconds),
            reraise=True,
        )
        try:
            response: httpx.Response = await retrying(self._attempt, method, path, stream, options)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
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
                self._check_kind(response, "text/event-stream")
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
                        raise unreachable(self.url, error) from error
            # Also after the longest duration of a stream: the next one continues after the last event.
            await sleep(reconnect_delay())

    def _check_kind(self, response: httpx.Response, kind: str) -> None:
        """Raise AnswerError for a response of another content type than the service gives."""
        found = response.headers.get("content-type", "none")
        if not found.startswith(kind):
            raise AnswerError(self.url, f"its answer has the content type {shown(found)}")

    @property
    def url(self) -> str:
        """URL of the service."""
        return str(self._http.base_url).rstrip("/")

"""The connection to the service's Ray cluster, through its dashboard: the service itself is not a part of it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import requests
from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient
from ray.util.state.exception import RayStateApiException

from orchestrator.cluster.inventory import ClusterUnavailableError
from orchestrator.cluster.local_ray import LocalRay
from orchestrator.cluster.process import StartError

Result = TypeVar("Result")

_DEADLINE_SECONDS = 30.0
"""Longest wait of a caller, for the start of a Ray too: that goes on, and later callers wait for the same one."""
_REQUEST_SECONDS = 20.0
# Raised by Ray's clients if a cluster is away, refuses a token, or answers with an error.
_UNAVAILABLE = (ConnectionError, requests.RequestException, RayError, RayStateApiException, RuntimeError, StartError)


class RayConnection:
    """A connection to a cluster, or to the service's local Ray, which it starts when needed and again after it died."""

    def __init__(self, cluster: str | LocalRay) -> None:
        """
        Args:
            cluster: URL of a cluster's dashboard (`http://HEAD:8265`), or a Ray on this machine.
        """
        self._cluster = cluster
        self._client: JobSubmissionClient | None = None
        self._connecting: asyncio.Future[JobSubmissionClient] | None = None
        self._since = 0.0
        """Monotonic time at which connecting began."""
        # Ray's client blocks.
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="ray")

    async def call(self, action: Callable[[JobSubmissionClient], Result], seconds: float = _DEADLINE_SECONDS) -> Result:
        """Call `action` in a thread, and return its result. Raises ClusterUnavailableError, also after `seconds`."""
        client: JobSubmissionClient | None = None
        try:
            async with asyncio.timeout(seconds):
                client = await self._connected()
                return await asyncio.get_running_loop().run_in_executor(self._threads, action, client)
        except TimeoutError as error:
            if client is None:
                waited = f"Ray has been starting for {time.monotonic() - self._since:.0f} s"
                raise ClusterUnavailableError(waited, waited) from error
            raise ClusterUnavailableError(f"Ray did not answer within {seconds:.0f} s") from error
        except _UNAVAILABLE as error:
            if client is not None and client is self._client:
                self._client = None
            raise _unavailable(error) from error

    async def _connected(self) -> JobSubmissionClient:
        """Return the client. Callers that come while it is made wait for it together, each as long as it likes to."""
        if self._client is not None:
            return self._client
        if self._connecting is None:
            self._since = time.monotonic()
            self._connecting = asyncio.get_running_loop().run_in_executor(self._threads, self._connect)
            self._connecting.add_done_callback(self._connected_or_failed)
        return await asyncio.shield(self._connecting)

    def _connect(self) -> JobSubmissionClient:
        return _Client(self._cluster if isinstance(self._cluster, str) else self._cluster.ensure())

    def _connected_or_failed(self, connecting: asyncio.Future[JobSubmissionClient]) -> None:
        self._connecting = None
        # Retrieving the error also keeps asyncio from logging it: a caller may have left.
        if not connecting.cancelled() and connecting.exception() is None:
            self._client = connecting.result()


def _unavailable(error: Exception) -> ClusterUnavailableError:
    if isinstance(error, StartError):
        return ClusterUnavailableError(str(error), error.summary)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ClusterUnavailableError(f"Ray: {lines[-1]}")


class _Client(JobSubmissionClient):  # type: ignore[misc]  # Ray has no types here
    """A client with a timeout: Ray's waits forever, and such a thread would keep the service from ending."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, timeout=_REQUEST_SECONDS, **options)

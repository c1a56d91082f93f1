"""The connection to the service's Ray cluster, through its dashboard: the service itself is not a part of it."""

import asyncio
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
        # Ray's client blocks.
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="ray")

    async def call(self, action: Callable[[JobSubmissionClient], Result], seconds: float = _DEADLINE_SECONDS) -> Result:
        """Call `action` in a thread, and return its result. Raises ClusterUnavailableError, also after `seconds`."""
        result = asyncio.get_running_loop().run_in_executor(self._threads, lambda: action(self._connected()))
        try:
            return await asyncio.wait_for(result, seconds)
        except TimeoutError as error:
            raise ClusterUnavailableError(f"Ray did not answer within {seconds:.0f} s") from error
        except _UNAVAILABLE as error:
            self._client = None
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ClusterUnavailableError(f"Ray: {lines[-1]}") from error

    def _connected(self) -> JobSubmissionClient:
        client = self._client
        if client is None:
            url = self._cluster if isinstance(self._cluster, str) else self._cluster.ensure()
            client = self._client = _Client(url)
        return client


class _Client(JobSubmissionClient):  # type: ignore[misc]  # Ray has no types here
    """A client with a timeout: Ray's waits forever, and such a thread would keep the service from ending."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, timeout=_REQUEST_SECONDS, **options)

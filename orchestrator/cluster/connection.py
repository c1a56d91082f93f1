"""The Ray cluster that the service uses, asked through its dashboard: the service itself is no part of it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import requests
from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient
from ray.util.state.exception import RayStateApiException

from orchestrator.cluster.inventory import ClusterUnavailableError
from orchestrator.cluster.local_ray import LocalRay, LocalRayError

Result = TypeVar("Result")

_DEADLINE_SECONDS = 30.0
_REQUEST_SECONDS = 20.0
# What Ray's clients raise for a cluster that is away, refuses a token, or answers with an error of its own.
_TROUBLE = (ConnectionError, requests.RequestException, RayError, RayStateApiException, RuntimeError, LocalRayError)


class RayConnection:
    """To a cluster, or to a Ray of the service's own, which is started when it is first needed and when it has died."""

    def __init__(self, cluster: str | LocalRay) -> None:
        """
        Args:
            cluster: URL of a cluster's dashboard (`http://HEAD:8265`), or a Ray on this machine.
        """
        self._cluster = cluster
        self._client: JobSubmissionClient | None = None
        # Ray's client blocks.
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="ray")

    async def ask(self, action: Callable[[JobSubmissionClient], Result], seconds: float = _DEADLINE_SECONDS) -> Result:
        """What `action` returns, in a thread of its own. Raises ClusterUnavailableError, also after `seconds`."""
        asked = asyncio.get_running_loop().run_in_executor(self._threads, lambda: action(self._connected()))
        try:
            return await asyncio.wait_for(asked, seconds)
        except TimeoutError as error:
            raise ClusterUnavailableError(f"Ray did not answer within {seconds:.0f} s") from error
        except _TROUBLE as error:
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
    """Ray's client waits for ever, and a thread that does would keep the service from ending."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, timeout=_REQUEST_SECONDS, **options)

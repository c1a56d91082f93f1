"""Drivers as jobs of a Ray cluster: each in a process of its own, that needs no service to go on.

Ray refuses a submission id that it knows: that is what keeps a driver from being started twice.
"""

import asyncio
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import requests
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_nodes

from orchestrator.service.limits import Capacity
from orchestrator.service.local_ray import LocalRay, LocalRayError
from orchestrator.service.run_view import LOG
from orchestrator.service.runner import ClusterUnavailableError, Driver, DriverState

Result = TypeVar("Result")

_DEADLINE_SECONDS = 30.0
_START_DEADLINE_SECONDS = 120.0
"""A Ray of the service's own may have to be started first."""
_STOP_SECONDS = 30
"""Between asking a driver to end and killing it."""

_STATES = {
    JobStatus.PENDING: DriverState.PENDING,
    JobStatus.RUNNING: DriverState.RUNNING,
    JobStatus.STOPPED: DriverState.STOPPED,
    JobStatus.SUCCEEDED: DriverState.ENDED,
    JobStatus.FAILED: DriverState.ENDED,
}


class RayRunner:
    """On a cluster, or on a Ray of the service's own, which is started when it is first needed and when it has died."""

    def __init__(self, cluster: str | LocalRay, *, python: str) -> None:
        """
        Args:
            cluster: URL of a cluster's dashboard (`http://HEAD:8265`), or a Ray on this machine.
            python: the interpreter that has Earshot installed, on the cluster's head node.
        """
        self._cluster, self._python = cluster, python
        self._client: JobSubmissionClient | None = None
        # Ray's client blocks and has no deadline of its own.
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="ray-jobs")

    async def connect(self) -> str:
        """The dashboard's URL, once the cluster answers."""
        return await self._ask(lambda client: str(client.get_address()), _START_DEADLINE_SECONDS)

    async def start(self, submission_id: str, run_dir: Path) -> None:
        """See Runner."""
        command = shlex.join([self._python, "-m", "orchestrator.service.driver_main", str(run_dir), submission_id])

        def submit(client: JobSubmissionClient) -> None:
            try:
                client.submit_job(
                    # exec: the exit code and the signals are the driver's own.
                    entrypoint=f"exec {command} >>{shlex.quote(str(run_dir / LOG))} 2>&1",
                    submission_id=submission_id,
                    runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}},
                    metadata={"earshot_run_dir": str(run_dir)},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise

        await self._ask(submit)

    async def look(self, submission_id: str) -> Driver:
        """See Runner."""

        def ask(client: JobSubmissionClient) -> Driver:
            try:
                info = client.get_job_info(submission_id)
            except RuntimeError as error:
                if "does not exist" in str(error):
                    return Driver(DriverState.UNKNOWN)
                raise
            return Driver(_STATES[info.status], info.driver_exit_code, info.message or "")

        return await self._ask(ask)

    async def stop(self, submission_id: str) -> None:
        """See Runner."""

        def ask(client: JobSubmissionClient) -> None:
            try:
                client.stop_job(submission_id)
            except RuntimeError as error:
                if "does not exist" not in str(error):
                    raise

        await self._ask(ask)

    async def capacity(self) -> Capacity:
        """See Runner."""

        def ask(client: JobSubmissionClient) -> Capacity:
            nodes = list_nodes(address=client.get_address(), timeout=10, raise_on_missing_output=False)
            alive = [node.resources_total or {} for node in nodes if node.state == "ALIVE"]
            return Capacity(sum(n.get("CPU", 0) for n in alive), sum(n.get("GPU", 0) for n in alive))

        return await self._ask(ask)

    async def _ask(self, action: Callable[[JobSubmissionClient], Result], seconds: float = _DEADLINE_SECONDS) -> Result:
        asked = asyncio.get_running_loop().run_in_executor(self._threads, lambda: action(self._connected()))
        try:
            return await asyncio.wait_for(asked, seconds)
        except TimeoutError as error:
            raise ClusterUnavailableError(f"Ray did not answer within {seconds:.0f} s") from error
        except (ConnectionError, requests.RequestException, RuntimeError, LocalRayError) as error:
            self._client = None
            raise ClusterUnavailableError(f"Ray: {str(error).strip().splitlines()[-1]}") from error

    def _connected(self) -> JobSubmissionClient:
        client = self._client
        if client is None:
            url = self._cluster if isinstance(self._cluster, str) else self._cluster.ensure()
            client = self._client = JobSubmissionClient(url)
        return client

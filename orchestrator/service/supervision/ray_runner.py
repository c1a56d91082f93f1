"""Run drivers as jobs of a Ray cluster: each is a process that keeps running without the service.

Ray refuses a submission id that it knows, so a driver is never started twice.
"""

import math
import shlex
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_nodes

from orchestrator.cluster.connection import RayConnection
from orchestrator.run.files import DRIVER_LOG
from orchestrator.service.supervision.limits import Capacity
from orchestrator.service.supervision.runner import Driver, DriverState

_STOP_SECONDS = 30
"""Grace period between stopping a driver and killing it."""

_STATES = {
    JobStatus.PENDING: DriverState.PENDING,
    JobStatus.RUNNING: DriverState.RUNNING,
    JobStatus.STOPPED: DriverState.STOPPED,
    JobStatus.SUCCEEDED: DriverState.ENDED,
    JobStatus.FAILED: DriverState.ENDED,
}


class RayRunner:
    """Runs drivers on one cluster."""

    def __init__(self, connection: RayConnection, *, python: str, grows: bool = False) -> None:
        """
        Args:
            python: the interpreter that has Earshot installed, on the cluster's head node.
            grows: the cluster starts nodes on demand, so that its current size is not a bound.
        """
        self._connection, self._python, self._grows = connection, python, grows

    async def start(self, submission_id: str, run_dir: Path) -> None:
        """See `Runner`."""
        command = shlex.join([self._python, "-m", "orchestrator.driver", str(run_dir), submission_id])

        def submit(client: JobSubmissionClient) -> None:
            try:
                client.submit_job(
                    # exec: exit code and signals are those of the driver.
                    entrypoint=f"exec {command} >>{shlex.quote(str(run_dir / DRIVER_LOG))} 2>&1",
                    submission_id=submission_id,
                    runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}},
                    metadata={"earshot_run_dir": str(run_dir)},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise

        await self._connection.call(submit)

    async def status(self, submission_id: str) -> Driver:
        """See `Runner`."""

        def ask(client: JobSubmissionClient) -> Driver:
            try:
                info = client.get_job_info(submission_id)
            except RuntimeError as error:
                if "does not exist" in str(error):
                    return Driver(DriverState.UNKNOWN)
                raise
            return Driver(_STATES[info.status], info.driver_exit_code, info.message or "")

        return await self._connection.call(ask)

    async def stop(self, submission_id: str) -> None:
        """See `Runner`."""

        def ask(client: JobSubmissionClient) -> None:
            try:
                client.stop_job(submission_id)
            except RuntimeError as error:
                if "does not exist" not in str(error):
                    raise

        await self._connection.call(ask)

    async def capacity(self) -> Capacity:
        """See `Runner`."""

        def ask(client: JobSubmissionClient) -> Capacity:
            nodes = list_nodes(address=client.get_address(), timeout=10, raise_on_missing_output=False)
            alive = [node.resources_total or {} for node in nodes if node.state == "ALIVE"]
            if not alive:
                raise RuntimeError("the cluster has no nodes yet")
            if self._grows:
                return Capacity(math.inf, math.inf)
            gpus = [node.get("GPU", 0) for node in alive]
            return Capacity(sum(node.get("CPU", 0) for node in alive), sum(gpus), max(gpus))

        return await self._connection.call(ask)

"""What the pool holds of a worker, and the Ray actor behind it.

Invariant: a call ends with the worker's answer, with WorkerFailedError or WeightsUnavailableError for what it raised,
or with WorkerLostError where there is nobody left to answer. Deadlines are the caller's.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from protocol.rollout import RolloutRequest, Sampling, WorkerSettings, WorkerStatus
from protocol.weights import WeightUpdate
from rollout_workers.errors import WeightsUnavailableError, WorkerFailedError, WorkerLostError
from rollout_workers.limits import RolloutLimits
from rollout_workers.packed import Outcome, outcomes, packed
from rollout_workers.worker.worker import RolloutWorker


class WeightReceiver(Protocol):
    """What brings new weights to a worker."""

    async def update(self, update: WeightUpdate) -> int:
        """Take an update, by whatever carries it; the version that the worker has then, for checking."""

    async def meet(self, init_info: Mapping[str, Any]) -> None:
        """Get ready for a carrier that needs both sides to meet first."""

    async def begin_update(self) -> None:
        """The first of three parts of an update whose pieces the caller hands over one by one."""

    async def load(self, piece: Mapping[str, Any]) -> None: ...

    async def finish_update(self, update: WeightUpdate) -> int:
        """Put the pieces into effect; the version that the worker has then."""


class WorkerHandle(WeightReceiver, Protocol):
    """One worker, from when it is asked for to its end."""

    async def placed(self) -> None:
        """Return once the cluster has given it a process: at once, or when there is room for it."""

    async def start(self) -> WorkerStatus:
        """Load the model; return once it has generated a token."""

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        """One answer to each request, in order. Where this is cancelled, the worker stops working on them."""

    async def heartbeat(self) -> WorkerStatus:
        """A sign of life, of the engine's too."""

    async def rest(self) -> None:
        """Give the GPU's memory to whoever shares it; nothing may be asked before `wake`."""

    async def wake(self) -> None: ...

    async def stop(self) -> None:
        """End in order."""

    def kill(self) -> None:
        """End at once, in whatever state it is."""


class ActorHandle:
    """A worker that is a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._killed = False
        self._process: int | None = None
        """A descriptor of the actor's process, if it is on this machine: unlike its number, it is not given again."""

    async def placed(self) -> None:
        try:
            await self._call("__ray_ready__")
        except WorkerLostError as error:
            if "creation task" in str(error.__cause__):
                raise WorkerFailedError(f"could not be made: {_last_line(error.__cause__)}") from error
            raise

    async def start(self) -> WorkerStatus:
        status: WorkerStatus = await self._call("start")
        if status.node == ray.get_runtime_context().get_node_id():
            # It may have died since, as the next call will say; or the kernel has no such thing, and Ray ends it alone.
            with contextlib.suppress(OSError):
                self._process = os.pidfd_open(status.pid)
        return status

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        return outcomes(await self._call("answer", packed(requests, sampling)))

    async def update(self, update: WeightUpdate) -> int:
        return await self._call("update", update)  # type: ignore[no-any-return]

    async def meet(self, init_info: Mapping[str, Any]) -> None:
        await self._call("meet", init_info)

    async def begin_update(self) -> None:
        await self._call("begin_update")

    async def load(self, piece: Mapping[str, Any]) -> None:
        await self._call("load", piece)

    async def finish_update(self, update: WeightUpdate) -> int:
        return await self._call("finish_update", update)  # type: ignore[no-any-return]

    async def heartbeat(self) -> WorkerStatus:
        return await self._call("heartbeat")  # type: ignore[no-any-return]

    async def rest(self) -> None:
        await self._call("rest")

    async def wake(self) -> None:
        await self._call("wake")

    async def stop(self) -> None:
        await self._call("stop")

    def kill(self) -> None:
        self._killed = True
        ray.kill(self._actor)
        if self._process is not None:
            # A stopped process does not hear Ray, which would give it 5 s and may itself be ended before.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            os.close(self._process)
            self._process = None

    def _begin(self, method: str, *arguments: Any) -> Any:
        """Make a call; a reference to its result."""
        return getattr(self._actor, method).remote(*arguments)

    async def _call(self, method: str, *arguments: Any) -> Any:
        reference = self._begin(method, *arguments)
        try:
            return await reference
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, WeightsUnavailableError):
                raise type(cause)(str(cause)) from error
            raise WorkerFailedError(f"{method!r} failed: {type(cause).__name__}: {cause}") from error
        except RayError as error:
            raise WorkerLostError(f"died in {method!r}: {_first_line(error)}") from error
        except asyncio.CancelledError:
            # Nobody waits for it any more: the worker need not go on with it.
            if not self._killed:
                ray.cancel(reference)
            raise


def _lines(error: BaseException | None) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def _first_line(error: BaseException | None) -> str:
    return _lines(error)[0]


def _last_line(error: BaseException | None) -> str:
    """Of an error with its traceback: what was raised."""
    return _lines(error)[-1]


def start_actor(
    name: str, settings: WorkerSettings, limits: RolloutLimits, *, num_cpus: float, num_gpus: float
) -> WorkerHandle:
    """A RolloutWorker that Ray is asked for; its engine is not started yet. Needs a running Ray."""
    actor = ray.remote(RolloutWorker).options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        # A restarted actor would have no engine, and a retried request could be answered twice: the pool does both.
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=1000,
    )
    return ActorHandle(actor.remote(name, settings, limits))

"""The pool's handle of a worker, and the handle of a worker that is a Ray actor.

Invariant: a call ends with the worker's answer, with WorkerFailedError or WeightsUnavailableError for an error that it
raised, or with WorkerLostError if the worker is dead. The caller sets deadlines.
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
from rollout_workers.packed import Outcome, pack_requests, unpack_outcomes
from rollout_workers.worker.worker import RolloutWorker


class WeightReceiver(Protocol):
    """The calls that bring new weights to a worker."""

    async def update(self, update: WeightUpdate) -> int:
        """Take an update by its carrier; return the version that the worker has then."""

    async def meet(self, init_info: Mapping[str, Any]) -> None:
        """Join the learner's group, for a carrier that needs one."""

    async def begin_update(self) -> None:
        """Start an update whose pieces are loaded one by one: `begin_update`, `load` for each, `finish_update`."""

    async def load(self, piece: Mapping[str, Any]) -> None: ...

    async def finish_update(self, update: WeightUpdate) -> int:
        """Put the pieces into effect; return the version that the worker has then."""


class WorkerHandle(WeightReceiver, Protocol):
    """One worker, from the request for its resources to its end."""

    async def placed(self) -> None:
        """Return once the cluster has started its process: when there is room for it."""

    async def start(self) -> WorkerStatus:
        """Load the model; return once the engine has generated a token."""

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        """Return one outcome for each request, in order. If this is cancelled, the worker stops working on them."""

    async def heartbeat(self) -> WorkerStatus:
        """Return the worker's status: a sign of life, also of its engine."""

    async def sleep(self) -> int:
        """Free the GPUs' memory for the learner; return the bytes that became free. Send no requests before `wake`."""

    async def wake(self) -> None:
        """Take the memory again."""

    async def stop(self) -> None:
        """End the worker gracefully."""

    def kill(self) -> None:
        """End the worker at once, whatever state it is in."""


class ActorHandle:
    """A worker that is a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._killed = False
        self._process: int | None = None
        """Descriptor of the actor's process, if it is on this machine. Unlike a process id it is never reused."""

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
            # It may have died since, as the next call reports; or the kernel has no pidfd, and only Ray ends it.
            with contextlib.suppress(OSError):
                self._process = os.pidfd_open(status.pid)
        return status

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        return unpack_outcomes(await self._call("generate_packed", pack_requests(requests, sampling)))

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

    async def sleep(self) -> int:
        return await self._call("sleep")  # type: ignore[no-any-return]

    async def wake(self) -> None:
        await self._call("wake")

    async def stop(self) -> None:
        await self._call("stop")

    def kill(self) -> None:
        self._killed = True
        ray.kill(self._actor)
        if self._process is not None:
            # Ray waits 5 s for a stopped process, and may itself be ended before.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            os.close(self._process)
            self._process = None

    def _submit(self, method: str, *arguments: Any) -> Any:
        """Start a call; return a reference to its result."""
        return getattr(self._actor, method).remote(*arguments)

    async def _call(self, method: str, *arguments: Any) -> Any:
        reference = self._submit(method, *arguments)
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
            # The caller no longer waits: the worker can stop working on it.
            if not self._killed:
                ray.cancel(reference)
            raise


def _lines(error: BaseException | None) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def _first_line(error: BaseException | None) -> str:
    return _lines(error)[0]


def _last_line(error: BaseException | None) -> str:
    """Return the last line of an error with its traceback: the error that was raised."""
    return _lines(error)[-1]


def start_actor(
    name: str,
    settings: WorkerSettings,
    limits: RolloutLimits,
    *,
    num_cpus: float,
    num_gpus: float,
    place: Any = None,
) -> WorkerHandle:
    """Request a RolloutWorker actor from a running Ray; `start` starts its engine.

    Args:
        num_gpus: all on one node: the engine's processes are children of the actor's.
        place: Ray's scheduling strategy for the actor; default: wherever there is room.
    """
    actor = ray.remote(RolloutWorker).options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        # The pool restarts and retries: a restarted actor would have no engine, a retried request two answers.
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=1000,
        **({} if place is None else {"scheduling_strategy": place}),
    )
    return ActorHandle(actor.remote(name, settings, limits))

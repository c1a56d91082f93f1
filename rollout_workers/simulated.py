"""Workers without an engine, which answer after a delay: to measure and test everything around the engines.

They keep the invariants of `rollout_workers.worker.worker`: one outcome for each request, in order, and every token
with the weight version it was "sampled" with. They run as Ray actors (`rollout_workers.worker.handle.ActorHandle`
around `SimulatedWorker`), or in the pool's own process (`SimulatedHandle`).
"""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from protocol.rollout import (
    Completion,
    Group,
    RolloutRequest,
    Sampling,
    StopReason,
    WorkerStatus,
)
from protocol.weights import WeightUpdate
from rollout_workers.errors import WorkerLostError
from rollout_workers.packed import Outcome, PackedWorker

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SimulatedPace:
    """The speed of a simulated worker."""

    group_seconds: float = 0.01
    """Mean seconds from the start of a group to its answer."""
    spread: float = 0.0
    """Largest deviation from the mean, as a share of it; the request's seed decides."""
    groups_at_once: int = 8
    """Number of groups computed at the same time; others wait."""
    tokens: int = 8
    """Number of tokens in each completion."""
    start_seconds: float = 0.0
    update_seconds: float = 0.0

    def seconds_for(self, request: RolloutRequest) -> float:
        """Return the seconds that one group takes: uniformly distributed over requests."""
        return self.group_seconds * (1 + self.spread * random.Random(request.seed).uniform(-1, 1))


class SimulatedWorker(PackedWorker):
    """One worker, with the methods of `rollout_workers.worker.worker.RolloutWorker`. For one event loop."""

    def __init__(self, name: str, pace: SimulatedPace) -> None:
        self._name, self._pace = name, pace
        self._room = asyncio.Semaphore(pace.groups_at_once)
        self._versions: list[tuple[float, int]] = [(0.0, 0)]
        """Time (of `time.monotonic`) from which each version is in effect."""
        self._requests_finished = self._tokens_generated = 0

    async def start(self) -> WorkerStatus:
        await asyncio.sleep(self._pace.start_seconds)
        return await self.heartbeat()

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        return list(await asyncio.gather(*(self._group(request, sampling) for request in requests)))

    async def update(self, update: WeightUpdate) -> int:
        await asyncio.sleep(self._pace.update_seconds)
        return await self.finish_update(update)

    async def meet(self, init_info: Mapping[str, Any]) -> None:
        """Do nothing: there is no group to join."""

    async def begin_update(self) -> None:
        """Do nothing: generation need not stop."""

    async def load(self, piece: Mapping[str, Any]) -> None:
        """Do nothing: it has no weights."""

    async def finish_update(self, update: WeightUpdate) -> int:
        self._versions.append((time.monotonic(), update.version))
        return update.version

    async def heartbeat(self) -> WorkerStatus:
        version = self._versions[-1][1]
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        return WorkerStatus(self._name, os.getpid(), node, version, self._tokens_generated, self._requests_finished)

    async def sleep(self) -> int:
        """Return 0: it has no GPU."""
        return 0

    async def wake(self) -> None:
        """Do nothing: it never sleeps."""

    async def stop(self) -> None:
        """Do nothing: it has no processes."""

    async def _group(self, request: RolloutRequest, sampling: Sampling) -> Group:
        async with self._room:
            began = time.monotonic()
            await asyncio.sleep(self._pace.seconds_for(request))
            runs = self._runs(began, time.monotonic())
        completion = Completion(
            token_ids=(1,) * self._pace.tokens,
            logprobs=(-1.0,) * self._pace.tokens,
            text="",
            stop_reason=StopReason.LENGTH,
            versions=runs,
        )
        self._requests_finished += 1
        self._tokens_generated += self._pace.tokens * sampling.group_size
        return Group(
            question=request.question,
            template=request.template,
            prompt_token_ids=(0,),
            completions=(completion,) * sampling.group_size,
            weight_version=min(version for version, _ in runs),
            worker=self._name,
        )

    def _runs(self, began: float, ended: float) -> tuple[tuple[int, int], ...]:
        """Return runs of (version, tokens), for tokens generated at a constant rate between two times."""
        counts: dict[int, int] = {}
        for i in range(self._pace.tokens):
            moment = began + (ended - began) * (i + 1) / self._pace.tokens
            version = next(version for since, version in reversed(self._versions) if since <= moment)
            counts[version] = counts.get(version, 0) + 1
        return tuple(counts.items())


class SimulatedHandle:
    """A simulated worker in this process, with faults on demand."""

    def __init__(self, name: str, pace: SimulatedPace, room: asyncio.Event | None = None) -> None:
        """`room` is set once the cluster has room for the worker; default: it has room."""
        self.worker = SimulatedWorker(name, pace)
        self._room = room
        self._calls: set[asyncio.Task[Any]] = set()
        self._lost: str | None = None
        self._frozen = False
        self.killed = False

    def crash(self) -> None:
        """Die, as by SIGKILL: every call fails."""
        self._lost = "died"
        for call in self._calls:
            call.cancel()

    def freeze(self) -> None:
        """Hang, as by SIGSTOP: no call returns."""
        self._frozen = True

    async def placed(self) -> None:
        if self._room is not None:
            await self._call(self._room.wait)

    async def start(self) -> WorkerStatus:
        return await self._call(self.worker.start)

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        return await self._call(self.worker.generate, requests, sampling)

    async def update(self, update: WeightUpdate) -> int:
        return await self._call(self.worker.update, update)

    async def meet(self, init_info: Mapping[str, Any]) -> None:
        await self._call(self.worker.meet, init_info)

    async def begin_update(self) -> None:
        await self._call(self.worker.begin_update)

    async def load(self, piece: Mapping[str, Any]) -> None:
        await self._call(self.worker.load, piece)

    async def finish_update(self, update: WeightUpdate) -> int:
        return await self._call(self.worker.finish_update, update)

    async def heartbeat(self) -> WorkerStatus:
        return await self._call(self.worker.heartbeat)

    async def sleep(self) -> int:
        return await self._call(self.worker.sleep)

    async def wake(self) -> None:
        await self._call(self.worker.wake)

    async def stop(self) -> None:
        await self._call(self.worker.stop)

    def kill(self) -> None:
        self.killed = True
        self.crash()

    async def _call(self, method: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Await a method of the worker. Raises WorkerLostError once the worker has died."""
        self._check()
        call = asyncio.ensure_future(self._unless_frozen(method, *arguments))
        self._calls.add(call)
        try:
            return await call
        except asyncio.CancelledError:
            self._check()
            raise
        finally:
            call.cancel()
            self._calls.discard(call)

    def _check(self) -> None:
        if self._lost is not None:
            raise WorkerLostError(self._lost)

    async def _unless_frozen(self, method: Callable[..., Awaitable[T]], *arguments: object) -> T:
        result = await method(*arguments)
        while self._frozen:
            await asyncio.sleep(3600)
        return result

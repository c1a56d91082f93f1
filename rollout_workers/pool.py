"""The pool of rollout workers: hands questions to whoever is free, and weights to all.

Invariant: `generate` returns one answer to each request, in the order of the requests, or raises RolloutError naming
the worker that failed. Nothing is asked twice.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from protocol.rollout import FailedQuestion, Group, RolloutRequest, Sampling, WorkerSettings, WorkerStatus
from protocol.weights import WeightUpdate
from rollout_workers import deadlines
from rollout_workers.errors import RolloutError
from rollout_workers.worker import RolloutWorker

_log = logging.getLogger(__name__)

Answer = Group | FailedQuestion


def start_worker(name: str, settings: WorkerSettings, *, num_cpus: float, num_gpus: float) -> Any:
    """A RolloutWorker as a Ray actor; its engine is not started yet. Needs a running Ray."""
    actor = ray.remote(RolloutWorker).options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        # A restarted actor would have no engine, and a retried batch could be answered twice.
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=1000,
    )
    return actor.remote(name, settings)


class RolloutPool:
    """Workers by name. Its methods are coroutines of one event loop."""

    def __init__(self, settings: WorkerSettings, *, cpus_per_worker: float = 1, gpus_per_worker: float = 0) -> None:
        self._settings = settings
        self._resources = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker}
        self._workers: dict[str, Any] = {}
        self._started = 0

    def __len__(self) -> int:
        return len(self._workers)

    async def start(self, count: int) -> list[WorkerStatus]:
        """Add `count` workers, all at once, and wait until each has generated a token. If one fails, all are ended."""
        names = [f"rollout-{i}" for i in range(self._started, self._started + count)]
        self._started += count
        self._workers |= {name: start_worker(name, self._settings, **self._resources) for name in names}
        try:
            return await self._all(names, "start", deadlines.START)
        except BaseException:
            await self.stop()
            raise

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling, *, by_rule: bool) -> list[Answer]:
        """One answer to each request, in their order.

        By rule, request i goes to worker i modulo their number and each worker gets its share as one batch: who
        answers what does not depend on timing. Otherwise a request goes to whichever worker has room.
        """
        if not self._workers:
            raise RuntimeError("the pool has no workers")
        return await (self._by_rule if by_rule else self._by_room)(requests, sampling)

    async def update(self, update: WeightUpdate) -> None:
        """Give all workers new weights, in parallel."""
        versions = await self._all(list(self._workers), "update", deadlines.UPDATE, update)
        for name, version in zip(self._workers, versions, strict=True):
            if version != update.version:
                raise RolloutError(name, f"has weight version {version} after an update to {update.version}")

    async def status(self) -> list[WorkerStatus]:
        return await self._all(list(self._workers), "status", deadlines.HEALTH)

    async def health(self) -> None:
        """Have every worker generate a token."""
        await self._all(list(self._workers), "health", deadlines.HEALTH)

    async def stop(self) -> None:
        """End all workers and their engines, whatever state they are in."""
        workers, self._workers = self._workers, {}
        await asyncio.gather(*(_end(name, actor) for name, actor in workers.items()))

    async def _by_rule(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Answer]:
        count = len(self._workers)
        shares = await _together(
            self._call(name, "generate", deadlines.GENERATE, requests[i::count], sampling)
            for i, name in enumerate(self._workers)
            if requests[i::count]
        )
        return [shares[i % count][i // count] for i in range(len(requests))]

    async def _by_room(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Answer]:
        waiting = deque(range(len(requests)))
        answers: dict[int, Answer] = {}

        async def lane(name: str) -> None:
            while waiting:
                i = waiting.popleft()
                (answers[i],) = await self._call(name, "generate", deadlines.GENERATE, [requests[i]], sampling)

        # As many lanes a worker as groups fill its engine; the workers take turns, so that a few requests spread.
        lanes = max(1, self._settings.max_concurrent // sampling.group_size)
        await _together(lane(name) for _ in range(lanes) for name in self._workers)
        return [answers[i] for i in range(len(requests))]

    async def _all(self, names: list[str], method: str, seconds: float, *arguments: Any) -> list[Any]:
        return await _together(self._call(name, method, seconds, *arguments) for name in names)

    async def _call(self, name: str, method: str, seconds: float, *arguments: Any) -> Any:
        """Call one worker. Raises RolloutError if it dies, fails or does not answer in time."""
        try:
            async with asyncio.timeout(seconds + deadlines.GRACE):
                return await getattr(self._workers[name], method).remote(*arguments)
        except TimeoutError as error:
            raise RolloutError(name, f"no answer to {method!r} within {seconds + deadlines.GRACE:.0f} s") from error
        except RayTaskError as error:
            cause = error.cause
            raise RolloutError(name, f"{method!r} failed: {type(cause).__name__}: {cause}") from error
        except RayError as error:
            raise RolloutError(name, f"died in {method!r}: {error}") from error


async def _together(calls: Any) -> list[Any]:
    """The results of several coroutines, in order; the first error cancels the rest and is raised as it is."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _end(name: str, actor: Any) -> None:
    """End a worker: kindly if it answers, and then its process in any case. Its engine dies with it."""
    try:
        async with asyncio.timeout(deadlines.STOP):
            await actor.stop.remote()
    except (RayError, RuntimeError, TimeoutError) as error:
        _log.warning("rollout worker %s did not stop by itself: %s", name, error)
    ray.kill(actor)

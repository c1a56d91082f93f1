"""The base of the carriers between GPUs: all workers take an update in step, part by part, each part with a deadline.

A worker that is not ready in time is left out before any bytes move, since in a collective all others would wait for
it. A worker that fails in any part is left out of the rest: its weights are undefined from the first part on.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import ElsewhereError, WorkerLostError
from rollout_workers.weight_sync.sync import WeightSource
from rollout_workers.worker.handle import WeightReceiver

Receivers = Mapping[str, WeightReceiver]
Failures = dict[str, WorkerLostError]
"""By the worker's name."""
LEARNER = "the learner"


class InStepSync(ABC):
    """A carrier that needs the learner and all workers at the same time."""

    carrier: Carrier

    def __init__(self, learner: WeightSource, *, seconds: float) -> None:
        """`seconds` is the deadline of each part."""
        self._learner, self._seconds = learner, seconds

    def distribute(self, update: WeightUpdate, receivers: Receivers) -> dict[str, Awaitable[int]]:
        whole = asyncio.ensure_future(self._update(update, receivers))
        return {name: _outcome_of(whole, name) for name in receivers}

    async def deliver(self, update: WeightUpdate, receiver: WeightReceiver) -> int:
        """Deliver by the object store: creating a group for a single worker is not worthwhile."""
        if update.carrier is not Carrier.OBJECT_STORE:
            raise ElsewhereError(f"weight version {update.version} is in the learner's GPUs")
        return await receiver.update(update)

    @abstractmethod
    async def carry(self, update: WeightUpdate, receivers: Receivers) -> Failures:
        """Bring the bytes to workers that are ready; return the failures."""

    async def part(self, what: str, calls: Mapping[str, Coroutine[Any, Any, Any]]) -> tuple[dict[str, Any], Failures]:
        """Make calls concurrently; return the results, and the failures of those that raised or missed the deadline."""
        results: dict[str, Any] = {}
        failures: Failures = {}

        async def one(name: str, call: Coroutine[Any, Any, Any]) -> None:
            try:
                async with asyncio.timeout(self._seconds):
                    results[name] = await call
            except TimeoutError:
                failures[name] = WorkerLostError(f"could not {what} within {self._seconds:.0f} s")
            except Exception as error:
                # Also an error of the learner, whose loss the training loop finds: the workers must not wait for it.
                failures[name] = WorkerLostError(f"could not {what}: {error}")

        await asyncio.gather(*(one(name, call) for name, call in calls.items()))
        return results, failures

    async def _update(self, update: WeightUpdate, receivers: Receivers) -> dict[str, int | WorkerLostError]:
        _, failures = await self.part("begin an update", {n: r.begin_update() for n, r in receivers.items()})
        ready = {name: r for name, r in receivers.items() if name not in failures}
        failures |= await self.carry(update, ready) if ready else {}
        carried = {name: r for name, r in ready.items() if name not in failures}
        versions, failed = await self.part("finish it", {n: r.finish_update(update) for n, r in carried.items()})
        return versions | failures | failed


async def _outcome_of(whole: asyncio.Future[dict[str, int | WorkerLostError]], name: str) -> int:
    # Shielded: a caller that stops waiting for one worker must not cancel the others' update.
    outcome = (await asyncio.shield(whole))[name]
    if isinstance(outcome, WorkerLostError):
        raise outcome
    return outcome

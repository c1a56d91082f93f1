"""What the carriers between GPUs share: all workers take an update in step, part by part, each part with a deadline.

A worker that does not get ready in time is left out before a byte moves, since a collective would make all others wait
for it. A failed part ends a worker's share in the update: its weights are undefined from the first part on.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import ElsewhereError, WorkerLostError
from rollout_workers.weight_sync.sync import WeightSender
from rollout_workers.worker.handle import WeightReceiver

Receivers = Mapping[str, WeightReceiver]
Failures = dict[str, WorkerLostError]
"""By name of the worker."""
LEARNER = "the learner"


class InStepSync(ABC):
    """A carrier that needs the learner and all workers at the same time."""

    carrier: Carrier

    def __init__(self, sender: WeightSender, *, seconds: float) -> None:
        """`seconds` is the deadline of each part."""
        self._sender, self._seconds = sender, seconds

    def spread(self, update: WeightUpdate, receivers: Receivers) -> dict[str, Awaitable[int]]:
        whole = asyncio.ensure_future(self._update(update, receivers))
        return {name: _own(whole, name) for name in receivers}

    async def join(self, update: WeightUpdate, receiver: WeightReceiver) -> int:
        """By the object store: one worker alone has no group to meet."""
        if update.carrier is not Carrier.OBJECT_STORE:
            raise ElsewhereError(f"weight version {update.version} is in the learner's GPUs")
        return await receiver.update(update)

    @abstractmethod
    async def carry(self, update: WeightUpdate, receivers: Receivers) -> Failures:
        """Bring the bytes to workers that are ready for them."""

    async def part(self, what: str, calls: Mapping[str, Coroutine[Any, Any, Any]]) -> tuple[dict[str, Any], Failures]:
        """Make calls at the same time: their results, and who failed or took too long."""
        results: dict[str, Any] = {}
        failures: Failures = {}

        async def one(name: str, call: Coroutine[Any, Any, Any]) -> None:
            try:
                async with asyncio.timeout(self._seconds):
                    results[name] = await call
            except TimeoutError:
                failures[name] = WorkerLostError(f"could not {what} within {self._seconds:.0f} s")
            except Exception as error:
                # Also of the learner's, whose loss the loop finds by itself: here its workers must not wait for it.
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


async def _own(whole: asyncio.Future[dict[str, int | WorkerLostError]], name: str) -> int:
    # Shielded: whoever stops waiting for one worker must not stop the others' update.
    outcome = (await asyncio.shield(whole))[name]
    if isinstance(outcome, WorkerLostError):
        raise outcome
    return outcome

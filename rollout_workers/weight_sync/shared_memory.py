"""Shared memory: the workers of the learner's machine map the weights, and most have them when `publish` returns.

The first update of a worker is delivered by a call; later ones reach it by announcement
(`rollout_workers.worker.subscription`). A worker on another machine takes every update from the object store. If all
workers are on other machines, the learner publishes there in the first place.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from weakref import WeakSet

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import ElsewhereError, WeightsUnavailableError
from rollout_workers.weight_sync.sync import WeightSource
from rollout_workers.worker.handle import WeightReceiver


class SharedMemorySync:
    """Shared memory on the learner's machine, the object store elsewhere."""

    def __init__(self, learner: WeightSource) -> None:
        self._learner = learner
        # By receiver: a replacement is another receiver under the same name.
        self._near: WeakSet[WeightReceiver] = WeakSet()
        self._far: WeakSet[WeightReceiver] = WeakSet()
        self._last: WeakSet[WeightReceiver] = WeakSet()
        self._copy: WeightUpdate | None = None
        """The last update in the object store, if a worker needed it."""
        self._one_copy = asyncio.Lock()

    @property
    def carrier(self) -> Carrier:
        all_far = len(self._last) > 0 and all(receiver in self._far for receiver in self._last)
        return Carrier.OBJECT_STORE if all_far else Carrier.SHARED_MEMORY

    def distribute(self, update: WeightUpdate, receivers: Mapping[str, WeightReceiver]) -> dict[str, Awaitable[int]]:
        self._last, self._copy = WeakSet(receivers.values()), None
        return {name: self._deliver_nearest(update, name, receiver) for name, receiver in receivers.items()}

    async def deliver(self, update: WeightUpdate, receiver: WeightReceiver) -> int:
        if update.carrier is Carrier.OBJECT_STORE:
            return await receiver.update(update)
        try:
            version = await receiver.update(update)
        except ElsewhereError:
            self._far.add(receiver)
            raise
        self._near.add(receiver)
        return version

    async def _deliver_nearest(self, update: WeightUpdate, name: str, receiver: WeightReceiver) -> int:
        if name in update.held_by and receiver in self._near:
            return update.version
        if receiver not in self._far:
            try:
                return await self.deliver(update, receiver)
            except ElsewhereError:
                pass
        return await self.deliver(await self._stored(update), receiver)

    async def _stored(self, update: WeightUpdate) -> WeightUpdate:
        """Return the same update in the object store. The learner is idle while an update is distributed."""
        if update.carrier is Carrier.OBJECT_STORE:
            return update
        async with self._one_copy:
            if self._copy is None:
                try:
                    self._copy = await self._learner.publish(Carrier.OBJECT_STORE)
                except Exception as error:
                    # The learner is lost, as the training loop finds: its next publication serves all workers.
                    raise WeightsUnavailableError(f"version {update.version} was not stored: {error}") from error
            if self._copy.version != update.version:
                raise WeightsUnavailableError(f"the learner has version {self._copy.version}, not {update.version}")
            return self._copy

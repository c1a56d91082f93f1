"""Weights in memory of the learner's machine, which its workers map: most have them when the learner's call returns.

A worker is asked once to take an update there, and hears of the later ones by itself
(`rollout_workers.worker.subscription`).
Where it cannot hear the learner, for it is on another machine, it takes the object store, now and later; where none
hears it, the learner publishes there at once.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from weakref import WeakSet

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import ElsewhereError, WeightsUnavailableError
from rollout_workers.weight_sync.sync import WeightSender
from rollout_workers.worker.handle import WeightReceiver


class SharedMemorySync:
    """Shared memory within the learner's machine, the object store beyond."""

    def __init__(self, sender: WeightSender) -> None:
        self._sender = sender
        # A worker that is replaced is another receiver, under the same name.
        self._near: WeakSet[WeightReceiver] = WeakSet()
        self._far: WeakSet[WeightReceiver] = WeakSet()
        self._last: WeakSet[WeightReceiver] = WeakSet()
        self._copy: WeightUpdate | None = None
        """The last update, in the object store."""
        self._one_copy = asyncio.Lock()

    @property
    def carrier(self) -> Carrier:
        all_far = len(self._last) > 0 and all(receiver in self._far for receiver in self._last)
        return Carrier.OBJECT_STORE if all_far else Carrier.SHARED_MEMORY

    def spread(self, update: WeightUpdate, receivers: Mapping[str, WeightReceiver]) -> dict[str, Awaitable[int]]:
        self._last, self._copy = WeakSet(receivers.values()), None
        return {name: self._give(update, name, receiver) for name, receiver in receivers.items()}

    async def join(self, update: WeightUpdate, receiver: WeightReceiver) -> int:
        if update.carrier is Carrier.OBJECT_STORE:
            return await receiver.update(update)
        try:
            version = await receiver.update(update)
        except ElsewhereError:
            self._far.add(receiver)
            raise
        self._near.add(receiver)
        return version

    async def _give(self, update: WeightUpdate, name: str, receiver: WeightReceiver) -> int:
        if name in update.held_by and receiver in self._near:
            return update.version
        if receiver not in self._far:
            try:
                return await self.join(update, receiver)
            except ElsewhereError:
                pass
        return await self.join(await self._stored(update), receiver)

    async def _stored(self, update: WeightUpdate) -> WeightUpdate:
        """The same in the object store: the learner has nothing else to do while an update is spread."""
        if update.carrier is Carrier.OBJECT_STORE:
            return update
        async with self._one_copy:
            if self._copy is None:
                try:
                    self._copy = await self._sender.publish(Carrier.OBJECT_STORE)
                except Exception as error:
                    # The learner is lost, as the loop finds by itself: its next publication serves everyone.
                    raise WeightsUnavailableError(f"version {update.version} was not stored: {error}") from error
            if self._copy.version != update.version:
                raise WeightsUnavailableError(f"the learner has version {self._copy.version}, not {update.version}")
            return self._copy

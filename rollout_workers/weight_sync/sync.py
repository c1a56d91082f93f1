"""The interface that the pool brings weights to its workers by, and the carrier of any machine.

Invariant: whatever carries the bytes, a worker either has the whole update, or its outcome is an error; what happens to
one worker changes no other's outcome, as far as the carrier allows.
"""

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.worker.handle import WeightReceiver


class WeightSender(Protocol):
    """The learner, as the carriers between GPUs need it. Each call is made on all its ranks."""

    async def publish(self, carrier: Carrier) -> WeightUpdate:
        """The weights as they are now, ready to be carried."""

    async def address(self) -> tuple[str, int]:
        """The first rank's host, and a port that is free there now."""

    async def meet(self, address: str, port: int, members: int) -> None:
        """Have the first rank join a group of so many members as number 0; returns once all are there."""

    async def broadcast(self) -> None:
        """Send the weights to the group."""

    async def next_piece(self) -> Mapping[str, Any] | None:
        """The next lot of weights in a GPU's memory, good until the next call; None behind the last."""


class WeightSync(Protocol):
    """A way to bring weights to workers."""

    @property
    def carrier(self) -> Carrier:
        """How the learner is to publish the next update."""

    def spread(self, update: WeightUpdate, receivers: Mapping[str, WeightReceiver]) -> dict[str, Awaitable[int]]:
        """Begin to give an update to workers, by name; for each, an awaitable of the version that it has then.

        An awaitable raises WorkerLostError or WorkerFailedError where the worker's weights are undefined, and
        WeightsUnavailableError where it has those it had.
        """

    async def join(self, update: WeightUpdate, receiver: WeightReceiver) -> int:
        """Give an update to one worker that comes late.

        Raises likewise, and ElsewhereError where this worker has to have it published in the object store.
        """


class ObjectStoreSync:
    """Ray's object store, and shared memory from there to the engine: each worker fetches for itself."""

    carrier = Carrier.OBJECT_STORE

    def spread(self, update: WeightUpdate, receivers: Mapping[str, WeightReceiver]) -> dict[str, Awaitable[int]]:
        return {name: receiver.update(update) for name, receiver in receivers.items()}

    async def join(self, update: WeightUpdate, receiver: WeightReceiver) -> int:
        return await receiver.update(update)

"""The interface by which the pool brings weights to its workers, and the carrier that works on any machine.

Invariant: with every carrier, a worker has the whole update or its outcome is an error; a failing worker does not
change the outcome of others, as far as the carrier allows.
"""

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.worker.handle import WeightReceiver


class WeightSource(Protocol):
    """The learner, as carriers call it. Each call is made on all ranks."""

    async def publish(self, carrier: Carrier) -> WeightUpdate:
        """Publish the current weights for a carrier."""

    async def address(self) -> tuple[str, int]:
        """Return the first rank's host, and a port that is currently free there."""

    async def meet(self, address: str, port: int, members: int) -> None:
        """Have the first rank join a group of `members` as rank 0; return once all have joined."""

    async def broadcast(self) -> None:
        """Send the weights to the group."""

    async def transferred(self) -> int:
        """Return the number of weights that were sent in broadcasts so far, also during one. It may never return."""

    async def abort_transfer(self) -> None:
        """End the running `meet`, `broadcast` or `next_piece`, or count the ranks in it as lost; return in seconds."""

    async def next_piece(self) -> Mapping[str, Any] | None:
        """Return the next piece of the weights in a GPU's memory, valid until the next call; None after the last."""


class WeightSync(Protocol):
    """A carrier: brings one learner's weights to workers."""

    @property
    def carrier(self) -> Carrier:
        """Carrier by which the learner has to publish the next update."""

    def distribute(self, update: WeightUpdate, receivers: Mapping[str, WeightReceiver]) -> dict[str, Awaitable[int]]:
        """Start to deliver an update to workers, by name; return for each an awaitable of the version it then has.

        An awaitable raises WorkerLostError or WorkerFailedError if the worker's weights are undefined, and
        WeightsUnavailableError if it keeps those that it has.
        """

    async def deliver(self, update: WeightUpdate, receiver: WeightReceiver) -> int:
        """Deliver an update to one worker that joins; return the version that it then has.

        Raises the same errors, and ElsewhereError if the worker needs the update in the object store.
        """


class ObjectStoreSync:
    """Ray's object store: each worker fetches the bytes itself, and shares them with its engine."""

    carrier = Carrier.OBJECT_STORE

    def distribute(self, update: WeightUpdate, receivers: Mapping[str, WeightReceiver]) -> dict[str, Awaitable[int]]:
        return {name: receiver.update(update) for name, receiver in receivers.items()}

    async def deliver(self, update: WeightUpdate, receiver: WeightReceiver) -> int:
        return await receiver.update(update)

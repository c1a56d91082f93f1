"""Weights from GPU to GPU: one packed NCCL broadcast to all engines, through vLLM's own receiving side.

Never run yet: written against vLLM 0.32's interfaces, on a machine without a GPU.

A group has the first learner rank as number 0 and behind it each worker's ranks, one a GPU of its tensor-parallel
engine. An NCCL group cannot change: where a worker came, left or was replaced, all meet again on a new port.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import WorkerLostError
from rollout_workers.weight_sync.in_step import LEARNER, Failures, InStepSync, Receivers
from rollout_workers.weight_sync.sync import WeightSender
from rollout_workers.worker.handle import WeightReceiver


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Who has which number in a group."""

    members: int
    offsets: Mapping[str, int]
    """The number of each worker's first rank."""

    @classmethod
    def of(cls, workers: Sequence[str], ranks_each: int) -> "GroupPlan":
        return cls(1 + ranks_each * len(workers), {name: 1 + ranks_each * i for i, name in enumerate(workers)})

    def init_info(self, worker: str, address: str, port: int) -> dict[str, Any]:
        """How a worker's engine joins, in the words of vLLM's NCCLWeightTransferInitInfo."""
        return {
            "master_address": address,
            "master_port": port,
            "rank_offset": self.offsets[worker],
            "world_size": self.members,
            "packed": True,
        }


def update_info(update: WeightUpdate) -> dict[str, Any]:
    """What is about to be broadcast, in the words of vLLM's NCCLWeightTransferUpdateInfo."""
    slots = [slot for bucket in update.buckets for slot in bucket.slots]
    return {
        "names": [slot.name for slot in slots],
        "dtype_names": [slot.dtype for slot in slots],
        "shapes": [list(slot.shape) for slot in slots],
    }


class NcclSync(InStepSync):
    """Broadcasts over a group that is made again where its members changed."""

    carrier = Carrier.NCCL

    def __init__(self, sender: WeightSender, *, ranks_each: int, seconds: float) -> None:
        super().__init__(sender, seconds=seconds)
        self._ranks_each = ranks_each
        self._group: dict[str, WeightReceiver] = {}
        """A worker that was replaced is another receiver under the same name."""

    async def carry(self, update: WeightUpdate, receivers: Receivers) -> Failures:
        if self._group != dict(receivers):
            failures = await self._meet(receivers)
            if failures:
                return failures
        digests = {s.name: s.digest for bucket in update.buckets for s in bucket.slots if s.digest is not None}
        piece = {"carrier": Carrier.NCCL.value, "info": update_info(update), "digests": digests}
        calls = {name: receiver.load(piece) for name, receiver in receivers.items()}
        _, failures = await self.part("receive a broadcast", calls | {LEARNER: self._sender.broadcast()})
        if failures:
            # Whoever broke off left the group's members at different places in it.
            self._group = {}
        failures.pop(LEARNER, None)
        return failures

    async def _meet(self, receivers: Receivers) -> Failures:
        """Make a group of the learner and these; if it cannot be made, that is every worker's failure."""
        self._group = {}
        plan = GroupPlan.of(list(receivers), self._ranks_each)
        address, port = await self._sender.address()
        calls = {
            name: receiver.meet({"carrier": Carrier.NCCL.value, "info": plan.init_info(name, address, port)})
            for name, receiver in receivers.items()
        }
        _, failures = await self.part("meet", calls | {LEARNER: self._sender.meet(address, port, plan.members)})
        if failures:
            first, cause = next(iter(failures.items()))
            return {name: WorkerLostError(f"no group for weights was made: {first} {cause}") for name in receivers}
        self._group = dict(receivers)
        return {}

"""NCCL: one packed broadcast from the first learner rank to all engines, received by vLLM's own backend.

Not run yet: written against vLLM 0.32's interfaces, on a machine without a GPU.

In a group, the first learner rank is rank 0, followed by one rank for each GPU of each worker's engine
(`rollout.tensor_parallel`), in the order of the engine's processes. The members of an NCCL group are fixed: after a
worker joined, left or was replaced, a new group is made on a new port.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import UpdateInterruptedError, WorkerLostError
from rollout_workers.limits import RolloutLimits
from rollout_workers.weight_sync.in_step import LEARNER, Failures, InStepSync, Receivers
from rollout_workers.weight_sync.sync import WeightSource
from rollout_workers.worker.handle import WeightReceiver

MEET_SECONDS = 120.0
"""Deadline for making a group: NCCL looks for networks first, and waits forever for a member that does not come."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """The ranks of a group."""

    members: int
    offsets: Mapping[str, int]
    """First rank of each worker, by name."""

    @classmethod
    def of(cls, workers: Sequence[str], ranks_each: int) -> "GroupPlan":
        return cls(1 + ranks_each * len(workers), {name: 1 + ranks_each * i for i, name in enumerate(workers)})

    def init_info(self, worker: str, address: str, port: int) -> dict[str, Any]:
        """Return how a worker's engine joins, as fields of vLLM's NCCLWeightTransferInitInfo."""
        return {
            "master_address": address,
            "master_port": port,
            "rank_offset": self.offsets[worker],
            "world_size": self.members,
            "packed": True,
        }


def update_info(update: WeightUpdate) -> dict[str, Any]:
    """Return the tensors of a broadcast, as fields of vLLM's NCCLWeightTransferUpdateInfo."""
    slots = [slot for bucket in update.buckets for slot in bucket.slots]
    return {
        "names": [slot.name for slot in slots],
        "dtype_names": [slot.dtype for slot in slots],
        "shapes": [list(slot.shape) for slot in slots],
    }


class NcclSync(InStepSync):
    """Broadcasts over a group, which is made anew when its members have changed."""

    carrier = Carrier.NCCL

    def __init__(self, learner: WeightSource, *, ranks_each: int, limits: RolloutLimits) -> None:
        super().__init__(learner, limits=limits)
        self._ranks_each = ranks_each
        self._group: dict[str, WeightReceiver] = {}
        """By name. A replacement is another receiver under the same name."""

    async def carry(self, update: WeightUpdate, receivers: Receivers) -> Failures:
        if self._group != dict(receivers):
            failures = await self._meet(receivers)
            if failures:
                return failures
        digests = {s.name: s.digest for bucket in update.buckets for s in bucket.slots if s.digest is not None}
        piece = {"carrier": Carrier.NCCL.value, "info": update_info(update), "digests": digests}
        calls = {name: receiver.load(piece) for name, receiver in receivers.items()}
        calls |= {LEARNER: self._learner.broadcast()}
        _, failures = await self.collective("take part in a broadcast", calls, self._limits.stall_seconds)
        if failures:
            # After a failure, the members are at different places of the broadcast.
            self._group = {}
        failures.pop(LEARNER, None)
        return failures

    async def _meet(self, receivers: Receivers) -> Failures:
        """Make a group of the learner and all receivers; if that fails, it is the failure of every worker."""
        self._group = {}
        plan = GroupPlan.of(list(receivers), self._ranks_each)
        found, failed = await self.part("find an address", {LEARNER: self._learner.address()}, MEET_SECONDS)
        if failed:
            return dict.fromkeys(receivers, failed[LEARNER])
        address, port = found[LEARNER]
        calls = {
            name: receiver.meet({"carrier": Carrier.NCCL.value, "info": plan.init_info(name, address, port)})
            for name, receiver in receivers.items()
        }
        calls |= {LEARNER: self._learner.meet(address, port, plan.members)}
        _, failures = await self.collective("meet", calls, MEET_SECONDS)
        if failures:
            guilty = {name for name in failures if not isinstance(failures[name], UpdateInterruptedError)}
            first = next(name for name in failures if name in guilty)
            text = f"the group for weights could not be made: {first} {failures[first]}"
            other = WorkerLostError if guilty == {LEARNER} else UpdateInterruptedError
            return {name: (WorkerLostError if name in guilty else other)(text) for name in receivers}
        self._group = dict(receivers)
        return {}

"""What brings a job's weights from its learner to its rollout workers, as its file says."""

from collections.abc import Callable, Mapping
from typing import Any

from learner.group import LearnerGroup
from orchestrator.job.sections.rollout import RolloutSection
from protocol.weights import Carrier, WeightUpdate
from rollout_workers.weight_sync.cuda_ipc import CudaIpcSync
from rollout_workers.weight_sync.nccl import NcclSync
from rollout_workers.weight_sync.shared_memory import SharedMemorySync
from rollout_workers.weight_sync.sync import ObjectStoreSync, WeightSync


class PresentLearner:
    """The learner as carriers call it: whichever ranks there are by now."""

    def __init__(self, present: Callable[[], LearnerGroup]) -> None:
        self._present = present

    async def publish(self, carrier: Carrier) -> WeightUpdate:
        return await self._present().publish(carrier)

    async def address(self) -> tuple[str, int]:
        return await self._present().address()

    async def meet(self, address: str, port: int, members: int) -> None:
        await self._present().meet(address, port, members)

    async def broadcast(self) -> None:
        await self._present().broadcast()

    async def next_piece(self) -> Mapping[str, Any] | None:
        return await self._present().next_piece()


def weight_sync(rollout: RolloutSection, learner: PresentLearner) -> WeightSync:
    """The carrier that a job names."""
    seconds = rollout.limits.update_seconds
    match rollout.weight_sync:
        case Carrier.SHARED_MEMORY:
            return SharedMemorySync(learner)
        case Carrier.OBJECT_STORE:
            return ObjectStoreSync()
        case Carrier.NCCL:
            return NcclSync(learner, ranks_each=1, seconds=seconds)
        case Carrier.CUDA_IPC:
            return CudaIpcSync(learner, seconds=seconds)

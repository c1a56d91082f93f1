"""CUDA IPC: weights within a GPU that a learner rank and an engine share. The engine reads the learner's memory.

Both sides ran on a GPU without an engine around them (`benchmarks.weight_sync_gpu`), but never in a job.

The learner packs its weights into one buffer, piece by piece. All workers load a piece before the next one is packed,
so that an update needs no more GPU memory than the buffer. The engines sleep during the learner's steps (`sleep`,
`wake`).
"""

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.weight_sync.in_step import LEARNER, Failures, InStepSync, Receivers


class CudaIpcSync(InStepSync):
    """Shares the learner's memory, piece by piece."""

    carrier = Carrier.CUDA_IPC

    async def carry(self, update: WeightUpdate, receivers: Receivers) -> Failures:
        digests = {s.name: s.digest for bucket in update.buckets for s in bucket.slots if s.digest is not None}
        failures: Failures = {}
        while True:
            seconds = self._limits.stall_seconds
            piece, failed = await self.part("pack weights", {LEARNER: self._learner.next_piece()}, seconds)
            if failed:
                return dict.fromkeys(receivers, failed[LEARNER]) | failures
            if piece[LEARNER] is None:
                return failures
            message = {"carrier": Carrier.CUDA_IPC.value, "info": piece[LEARNER], "digests": digests}
            calls = {name: r.load(message) for name, r in receivers.items() if name not in failures}
            failures |= (await self.part("load a piece", calls, seconds))[1]

"""The GPU memory that engines share with the learner: it has it in its part of a step, they have it otherwise.

Invariant: between `sleep` and `wake` no engine has memory or takes any: those that run sleep, none starts, and those
whose process was ended are given the time in which their memory becomes free.
"""

import asyncio
from typing import Literal

from rollout_workers.errors import WorkerFailedError, WorkerLostError
from rollout_workers.pool.dispatcher import Dispatcher
from rollout_workers.pool.memory_gate import Reason
from rollout_workers.pool.weight_keeper import WeightKeeper
from rollout_workers.pool.worker_life import WorkerLife
from rollout_workers.pool.worker_record import WorkerRecord
from rollout_workers.pool.worker_set import WorkerSet

SECONDS_TO_FREE = 3.0
"""Time after which the GPU memory of a process that was ended is free."""


class EngineMemory:
    """The memory of all engines of a pool. For its event loop."""

    def __init__(
        self, workers: WorkerSet, life: WorkerLife, keeper: WeightKeeper, dispatcher: Dispatcher, *, seconds: float
    ) -> None:
        """`seconds` is the deadline of an engine that is put to sleep or woken."""
        self.asleep = False
        """True between `sleep` and `wake`."""
        self._workers, self._life, self._keeper, self._dispatcher = workers, life, keeper, dispatcher
        self._seconds = seconds

    @property
    def may_start(self) -> bool:
        """True if engines may start: not between `hold_starts` or `sleep`, and `allow_starts`."""
        return not self._keeper.memory.is_closed(Reason.TURN)

    async def hold_starts(self) -> None:
        """Let no engine start, or take weights that it missed; return once none does."""
        await self._keeper.memory.close(Reason.TURN)
        await self._keeper.wait_arrived()

    def allow_starts(self) -> None:
        """Let engines start again."""
        self._keeper.memory.open(Reason.TURN)

    async def sleep(self) -> None:
        """Give the GPUs' memory to the learner, until `wake`; no engine starts before `allow_starts`.

        Workers that fail are lost, and replaced later. Send no requests before `wake`.
        """
        await self.hold_starts()
        self.asleep = True
        with_engine = [worker for worker in self._workers.workers.values() if worker.has_engine]
        awake = [worker for worker in with_engine if worker.lost is None and not worker.asleep]
        await asyncio.gather(*(self._call(worker, "sleep") for worker in awake))
        now = asyncio.get_running_loop().time()
        # The tasks of the slots end the processes of workers that were lost just now, also before this call.
        ended = now if any(worker.lost is not None for worker in with_engine) else self._life.last_end
        await asyncio.sleep(max(0.0, ended + SECONDS_TO_FREE - now))

    async def wake(self) -> None:
        """Have the engines that sleep take their memory again: the learner must have given it back."""
        asleep = [worker for worker in self._workers.workers.values() if worker.asleep and worker.lost is None]
        await asyncio.gather(*(self._call(worker, "wake") for worker in asleep))
        self.asleep = False

    async def _call(self, worker: WorkerRecord, what: Literal["sleep", "wake"]) -> None:
        handle = worker.current_handle
        try:
            async with asyncio.timeout(self._seconds):
                await (handle.sleep() if what == "sleep" else handle.wake())
        except (TimeoutError, WorkerLostError, WorkerFailedError) as error:
            if worker.handle is handle:
                self._dispatcher.lose(worker, f"{what!r} failed: {error}")
        else:
            if worker.handle is handle:
                worker.asleep = what == "sleep"

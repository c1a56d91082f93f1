"""The newest weights, and which worker has them.

Invariant: a worker that serves has the newest update that was given to `update`, or it was serving when that began and
is about to receive it. A worker that fails to take an update, or takes too long, does not affect the others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from protocol.weights import WeightUpdate
from rollout_workers.errors import (
    ElsewhereError,
    UpdateInterruptedError,
    WeightsUnavailableError,
    WorkerFailedError,
    WorkerLostError,
)
from rollout_workers.limits import GRACE_SECONDS, RolloutLimits
from rollout_workers.pool.dispatcher import Dispatcher, OnEvent
from rollout_workers.pool.memory_gate import MemoryGate, Reason
from rollout_workers.pool.state_change import StateChange
from rollout_workers.pool.worker_record import WorkerRecord, WorkerState
from rollout_workers.weight_sync.sync import ObjectStoreSync, WeightSync

Republish = Callable[[], Awaitable[WeightUpdate]]


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """The result of one weight update."""

    version: int
    seconds: float
    updated: tuple[str, ...]
    """Workers that have it."""
    late: tuple[str, ...]
    """Workers that were not waited for: they serve again once they have it."""
    dropped: Mapping[str, str]
    """Workers that failed, with the cause: they are replaced."""


class WeightKeeper:
    """Gives each update to all workers that serve, and keeps the latest for those that join."""

    def __init__(
        self,
        limits: RolloutLimits,
        dispatcher: Dispatcher,
        changes: StateChange,
        *,
        on_event: OnEvent,
        shares_gpu: bool = False,
    ) -> None:
        """`shares_gpu`: workers and learner have the same GPUs."""
        self.memory = MemoryGate()
        self._shares_gpu = shares_gpu
        self.sync: WeightSync = ObjectStoreSync()
        self.republish: Republish | None = None
        self.latest: WeightUpdate | None = None
        self._number = 0
        """Number of updates so far. Not the version: that decreases when a learner returns to a checkpoint."""
        self._limits = limits
        self._dispatcher, self._changes = dispatcher, changes
        self._event = on_event
        self._one_at_a_time, self._publishing = asyncio.Lock(), asyncio.Lock()
        self._arriving: set[WorkerRecord] = set()
        self._republished = 0

    def has_to_catch_up(self, worker: WorkerRecord) -> bool:
        """Return whether a worker lacks the newest update and no running `update` brings it."""
        return worker.update_number != self._number and worker not in self._arriving

    async def wait_arrived(self) -> None:
        """Return once no worker takes an update: those that are late have it, or failed."""
        await self._changes.wait_for(lambda: not self._arriving)

    async def update(self, update: WeightUpdate, serving: Sequence[WorkerRecord]) -> UpdateReport:
        """Give new weights to the workers that serve; the others get them when they join.

        Returns once all have them or have failed, at the latest `limits.lag_seconds` after the first has them.
        """
        async with self._one_at_a_time:
            started = time.perf_counter()
            self._number += 1
            self.latest = update
            # Workers that wait for weights that were lost try these.
            self._changes.notify()
            for worker in serving:
                self._dispatcher.close(worker)
                worker.state = WorkerState.SYNCING
                self._arriving.add(worker)
            versions = self.sync.distribute(update, {w.name: w.current_handle for w in serving})
            arrivals = {
                w.name: asyncio.ensure_future(self._finish(w, update, self._number, versions[w.name])) for w in serving
            }
            await self._wait(list(arrivals.values()))
        failures = {name: a.result() for name, a in arrivals.items() if a.done()}
        late = tuple(name for name in arrivals if name not in failures)
        if late:
            self._event("update_late", version=update.version, workers=list(late))
        return UpdateReport(
            version=update.version,
            seconds=time.perf_counter() - started,
            updated=tuple(name for name, failure in failures.items() if failure is None),
            late=late,
            dropped={name: failure for name, failure in failures.items() if failure is not None},
        )

    async def catch_up(self, worker: WorkerRecord) -> None:
        """Give a worker that joins the newest weights, again if they change in the meantime."""
        while worker.update_number != self._number:
            update, number = self.latest, self._number
            assert update is not None
            worker.state = WorkerState.SYNCING
            try:
                async with self.memory.inside():
                    await self._confirm(worker, update, self.sync.deliver(update, worker.current_handle))
            except WeightsUnavailableError as error:
                await self._republish_or_wait(update, number, error)
            else:
                worker.update_number = number

    async def _finish(
        self, worker: WorkerRecord, update: WeightUpdate, number: int, version: Awaitable[int]
    ) -> str | None:
        """Wait until a worker has an update and let it serve again. Return the cause of a failure, or None."""
        failure, handle = None, worker.handle
        try:
            await self._confirm(worker, update, version)
            worker.update_number = number
        except WeightsUnavailableError as error:
            failure = str(error)
            self._event("weights_unavailable", worker=worker.name, version=update.version, cause=failure)
        except (WorkerLostError, WorkerFailedError) as error:
            failure = str(error)
            self._event("update_failed", worker=worker.name, version=update.version, cause=failure)
            if worker.handle is handle:
                worker.blameless = isinstance(error, UpdateInterruptedError)
                self._dispatcher.lose(worker, failure)
        self._arriving.discard(worker)
        if worker.handle is not handle:
            self._changes.notify()
            return failure  # replaced in the meantime
        if worker.state is WorkerState.SYNCING and not worker.leaving and worker.update_number == self._number:
            worker.state = WorkerState.SERVING
            self._dispatcher.open(worker)
        # Otherwise the slot's task handles it: the worker leaves, catches up, or ends.
        worker.changed.set()
        self._changes.notify()
        return failure

    async def _confirm(self, worker: WorkerRecord, update: WeightUpdate, version: Awaitable[int]) -> None:
        """Wait for a worker to take an update, and compare versions.

        Raises WorkerLostError after the deadline or for another version, and whatever `version` raises.
        """
        seconds = self._limits.update_seconds + GRACE_SECONDS
        try:
            async with asyncio.timeout(seconds):
                taken = await version
        except TimeoutError as error:
            raise WorkerLostError(f"took longer than {seconds:.0f} s for a weight update") from error
        if taken != update.version:
            raise WorkerLostError(f"has weight version {taken} after an update to {update.version}")
        worker.weight_version = taken

    async def _wait(self, arrivals: Sequence[asyncio.Future[str | None]]) -> None:
        """Wait until the first worker has its weights, then at most `limits.lag_seconds` for the others."""
        pending = set(arrivals)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if any(arrival.result() is None for arrival in done):
                break
        if pending:
            await asyncio.wait(pending, timeout=self._limits.lag_seconds)

    async def _republish_or_wait(self, update: WeightUpdate, number: int, cause: WeightsUnavailableError) -> None:
        """Have lost or unreachable bytes published again, or wait for the next update."""
        if self._republished != number:
            self._republished = number
            if not isinstance(cause, ElsewhereError):
                self._event("weights_unavailable", version=update.version, cause=str(cause))
            if self.republish is not None:
                try:
                    again = await self._publish_again(self.republish)
                except Exception as error:
                    # The learner is lost too: its next publication serves all workers.
                    self._event("weights_unavailable", version=update.version, cause=f"not published again: {error}")
                else:
                    if self._number == number and again.version == update.version:
                        self.latest = again
                        self._changes.notify()
                        return
        await self._changes.wait_for(lambda: self._number != number or self.latest is not update)

    async def _publish_again(self, republish: Republish) -> WeightUpdate:
        """Publish; on shared GPUs while no engine starts: the learner needs memory, which the engine would measure."""
        if not self._shares_gpu:
            return await republish()
        async with self._publishing:
            try:
                await self.memory.close(Reason.PUBLISHING)
                return await republish()
            finally:
                self.memory.open(Reason.PUBLISHING)

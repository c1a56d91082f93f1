"""The life of the workers of one slot: pending, starting, syncing, serving, draining, gone, and the next one.

Invariant: a worker is given requests only after it has its first weights and before it leaves. However its life ends,
its process ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from protocol.back_off import back_off
from rollout_workers.errors import RolloutError, WorkerFailedError, WorkerLostError
from rollout_workers.limits import HEARTBEAT_SECONDS, PENDING_SECONDS, STOP_SECONDS, RolloutLimits
from rollout_workers.pool.dispatcher import Dispatcher, OnEvent
from rollout_workers.pool.state_change import StateChange
from rollout_workers.pool.weight_keeper import WeightKeeper
from rollout_workers.pool.worker_record import WorkerRecord, WorkerState
from rollout_workers.worker.handle import WorkerHandle

MakeWorker = Callable[[str], WorkerHandle]
"""Requests a worker of the given name; returns at once."""

_FIRST_RESTART_SECONDS = 1.0
_LONGEST_RESTART_SECONDS = 60.0


class WorkerLife:
    """Runs the slots of a pool, one task for each: `run(worker)`. All slots share one budget of restarts."""

    def __init__(
        self,
        make: MakeWorker,
        dispatcher: Dispatcher,
        keeper: WeightKeeper,
        limits: RolloutLimits,
        changes: StateChange,
        *,
        on_event: OnEvent,
    ) -> None:
        self.restarts = 0
        """Number of workers that were replaced in the job."""
        self._make, self._dispatcher, self._keeper = make, dispatcher, keeper
        self._limits, self._changes, self._event = limits, changes, on_event
        self._one_served = False
        self.last_end = float("-inf")
        """Time of the event loop at which a worker's process was last ended: its GPU memory is free a little later."""
        self.may_request = asyncio.Event()
        """Set while workers may be requested; cleared while others go first."""
        self.may_request.set()

    async def run(self, worker: WorkerRecord) -> None:
        """Fill a slot, and replace workers that are lost, for as long as the slot is wanted.

        Raises RolloutError where a first worker cannot start, or the budget of restarts is used up.
        """
        while worker.is_wanted():
            await self.may_request.wait()
            worker.fill(self._make(worker.name))
            self._changes.notify()
            try:
                await self._live_until_withdrawn(worker)
            except (WorkerLostError, WorkerFailedError) as error:
                self._dispatcher.lose(worker, str(error))
                worker.state = WorkerState.GONE
                if not worker.is_wanted():
                    return
                pause = 0.0 if worker.blameless else self._count_restart(worker, str(error))
                self._event("worker_restart", worker=worker.name, restart=self.restarts, seconds=pause)
                await asyncio.sleep(pause)

    def withdraw(self, worker: WorkerRecord) -> None:
        """End a worker, or the request for it, at once; its slot requests another one as soon as that is allowed."""
        state = worker.state
        # It gets no requests or weights any more, and its end is not a loss.
        worker.state = WorkerState.GONE
        requeued = self._dispatcher.take_back(worker, None)
        if state is not WorkerState.PENDING:
            self._event("worker_withdrawn", worker=worker.name, state=str(state), requeued=requeued)
        worker.withdrawn.set()
        self._changes.notify()

    async def _live_until_withdrawn(self, worker: WorkerRecord) -> None:
        life = asyncio.ensure_future(self._live(worker))
        withdrawn = asyncio.ensure_future(worker.withdrawn.wait())
        try:
            await asyncio.wait([life, withdrawn], return_when=asyncio.FIRST_COMPLETED)
            if life.done() and not worker.withdrawn.is_set():
                await life
        finally:
            withdrawn.cancel()
            life.cancel()
            await asyncio.gather(life, withdrawn, return_exceptions=True)
            if worker.withdrawn.is_set():
                worker.state = WorkerState.GONE

    async def _live(self, worker: WorkerRecord) -> None:
        """Run one worker, from the request for its resources to its end."""
        in_order = False
        try:
            try:
                await self._wait_for_room(worker)
                async with self._keeper.memory.inside():
                    await self._start(worker)
            except WorkerFailedError as error:
                if self._one_served:
                    raise
                # Every other worker would fail in the same way: the model cannot be loaded, for example.
                raise RolloutError(worker.name, str(error)) from error
            async with self._heartbeats(worker):
                await self._catch_up(worker)
                self._serve(worker)
                while not await self._drained(worker):
                    await worker.changed.wait()
                    worker.changed.clear()
                    if worker.lost is not None:
                        raise WorkerLostError(worker.lost)
                    if self._keeper.has_to_catch_up(worker):
                        self._dispatcher.close(worker)
                        await self._catch_up(worker)
                        self._serve(worker)
            in_order = True
        finally:
            await self._end(worker, in_order=in_order)

    async def _wait_for_room(self, worker: WorkerRecord) -> None:
        placed = asyncio.ensure_future(worker.current_handle.placed())
        try:
            done, _ = await asyncio.wait([placed], timeout=PENDING_SECONDS)
            if not done:
                self._event("worker_pending", worker=worker.name, seconds=PENDING_SECONDS)
            await placed
        finally:
            placed.cancel()

    async def _start(self, worker: WorkerRecord) -> None:
        worker.state = WorkerState.STARTING
        self._changes.notify()
        try:
            async with asyncio.timeout(self._limits.start_seconds):
                worker.record_status(await worker.current_handle.start())
        except TimeoutError as error:
            raise WorkerLostError(f"did not start within {self._limits.start_seconds:.0f} s") from error
        # Within the gate: from here on it has an engine, which has to sleep when the others do.
        worker.state = WorkerState.SYNCING

    async def _catch_up(self, worker: WorkerRecord) -> None:
        """Have a worker take the newest weights; stop waiting once it is found dead or hung."""
        caught_up = asyncio.ensure_future(self._keeper.catch_up(worker))
        lost = asyncio.ensure_future(self._changes.wait_for(lambda: worker.lost is not None))
        try:
            await asyncio.wait([caught_up, lost], return_when=asyncio.FIRST_COMPLETED)
            if not caught_up.done():
                raise WorkerLostError(worker.lost or "lost")
            await caught_up
        finally:
            caught_up.cancel()
            lost.cancel()
            await asyncio.gather(caught_up, lost, return_exceptions=True)

    def _serve(self, worker: WorkerRecord) -> None:
        """Give requests to a worker that has the newest weights."""
        if worker.leaving or worker.lost is not None or worker.withdrawn.is_set():
            return
        worker.state, self._one_served = WorkerState.SERVING, True
        if not worker.announced:
            worker.announced = True
            self._event(
                "worker_started",
                worker=worker.name,
                node=worker.node,
                pid=worker.pid,
                weight_version=worker.weight_version,
            )
        self._dispatcher.open(worker)
        self._changes.notify()

    async def _drained(self, worker: WorkerRecord) -> bool:
        """Let a worker that has to leave finish its requests, or requeue them. Return False if it stays."""
        if worker.is_wanted():
            return False
        self._dispatcher.close(worker)
        worker.state = WorkerState.DRAINING
        self._event("worker_draining", worker=worker.name, requests=len(worker.entries))
        self._changes.notify()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain_seconds):
                await self._changes.wait_for(
                    lambda: not worker.entries or not worker.leaving or worker.lost is not None
                )
        if worker.lost is not None:
            raise WorkerLostError(worker.lost)
        if worker.is_wanted():
            worker.state = WorkerState.SYNCING
            await self._catch_up(worker)
            self._serve(worker)
            return False
        handed_back = self._dispatcher.take_back(worker, None)
        self._event("worker_drained", worker=worker.name, handed_back=handed_back)
        return True

    @contextlib.asynccontextmanager
    async def _heartbeats(self, worker: WorkerRecord) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self._watch(worker))
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self, worker: WorkerRecord) -> None:
        """Mark a worker as lost once it has been silent for too long."""
        silent, clock = self._limits.silent_seconds, asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(HEARTBEAT_SECONDS, silent / 4))
            beat = asyncio.ensure_future(worker.current_handle.heartbeat())
            try:
                deadline = clock() + silent
                while not beat.done():
                    await asyncio.wait([beat], timeout=silent)
                    # If this process itself was suspended, the silence does not say anything about the worker.
                    if not beat.done() and clock() < deadline + silent:
                        return self._dispatcher.lose(worker, f"gave no sign of life for {silent:g} s")
                    deadline = clock() + silent
                worker.record_status(beat.result())
            except (WorkerLostError, WorkerFailedError) as error:
                return self._dispatcher.lose(worker, str(error))
            finally:
                beat.cancel()

    async def _end(self, worker: WorkerRecord, *, in_order: bool) -> None:
        """End a worker's process: gracefully if it answers, and in any case."""
        handle = worker.current_handle
        try:
            if in_order or (worker.has_engine and worker.lost is None):
                async with asyncio.timeout(STOP_SECONDS):
                    await handle.stop()
        except (TimeoutError, WorkerLostError, WorkerFailedError) as error:
            self._event("worker_killed", worker=worker.name, cause=f"did not stop by itself: {error}")
        finally:
            self._dispatcher.take_back(worker, None)
            handle.kill()
            self.last_end = asyncio.get_running_loop().time()

    def _count_restart(self, worker: WorkerRecord, cause: str) -> float:
        """Count a lost worker; return the seconds until its replacement. Raises RolloutError beyond the budget."""
        self.restarts += 1
        limit = self._limits.max_restarts
        if self.restarts > limit:
            raise RolloutError(
                worker.name, f"{cause} (the last of {self.restarts} losses; rollout.limits.max_restarts is {limit})"
            )
        worker.restarts += 1
        pause = back_off(worker.losses_in_row, _FIRST_RESTART_SECONDS, _LONGEST_RESTART_SECONDS)
        worker.losses_in_row += 1
        return pause

"""The workers of a pool: as many as are wanted, each slot with a life of its own.

Invariant: every slot up to the target has a worker, or is about to have one, until the budget of restarts is used up;
a worker is given work only between its first weights and its leaving; however a life ends, its worker's process ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Literal

from rollout_workers.errors import RolloutError, WorkerFailedError, WorkerLostError
from rollout_workers.limits import HEARTBEAT_SECONDS, PENDING_SECONDS, STOP_SECONDS, RolloutLimits
from rollout_workers.pool.changes import Changes
from rollout_workers.pool.dispatcher import Dispatcher, OnEvent
from rollout_workers.pool.member import Member, WorkerState
from rollout_workers.pool.restarts import Restarts
from rollout_workers.pool.weight_keeper import WeightKeeper
from rollout_workers.worker.handle import WorkerHandle

MakeWorker = Callable[[str], WorkerHandle]
"""Asks for a worker of a name; returns at once."""


class WorkerSet:
    """Slots by number."""

    def __init__(
        self,
        make: MakeWorker,
        dispatcher: Dispatcher,
        keeper: WeightKeeper,
        limits: RolloutLimits,
        changes: Changes,
        *,
        on_event: OnEvent,
        fail: Callable[[RolloutError], None],
    ) -> None:
        self.members: dict[int, Member] = {}
        self.target = 0
        self.restarts = Restarts(limits.max_restarts)
        self._make, self._dispatcher, self._keeper = make, dispatcher, keeper
        self._limits, self._changes = limits, changes
        self._event, self._fail = on_event, fail
        self._lives: dict[Member, asyncio.Task[None]] = {}
        self._one_served = False

    @property
    def staying(self) -> list[Member]:
        """The slots that are wanted, by number."""
        return [member for member in self.members.values() if not member.leaving]

    @property
    def serving(self) -> list[Member]:
        return [member for member in self.members.values() if member.state is WorkerState.SERVING]

    def scale(self, count: int) -> None:
        """Want `count` workers from now on."""
        self.target = count
        staying = self.staying
        leaving = [member for member in self.members.values() if member.leaving and self._can_be_kept(member)]
        for member in leaving[: max(0, count - len(staying))]:
            # It still has its engine and its weights: no other could be had sooner.
            member.leaving = False
            member.changed.set()
        for _ in range(count - len(self.staying)):
            self._add()
        # Those with the least to lose first, then the highest numbers.
        staying.sort(key=lambda m: (m.has_engine, m.state is WorkerState.STARTING, -m.slot))
        for member in staying[: max(0, len(staying) - count)]:
            self._dismiss(member)
        self._changes.notify()

    def lose(self, member: Member, cause: str) -> None:
        """A worker is dead or hung: take back what it has, and have its life end it."""
        if member.lost is None and member.state is not WorkerState.GONE:
            member.lost = cause
            taken = self._dispatcher.take_back(member, cause)
            self._event(
                "worker_lost", worker=member.name, node=member.node, pid=member.pid, cause=cause, requeued=taken
            )
            member.changed.set()
            self._changes.notify()

    async def tell_all(self, method: Literal["rest", "wake"]) -> None:
        """Call a method of all workers that serve; one that fails is lost."""

        async def tell(member: Member) -> None:
            try:
                async with asyncio.timeout(self._limits.silent_seconds):
                    await getattr(member.handle_now, method)()
            except (TimeoutError, WorkerLostError, WorkerFailedError) as error:
                self.lose(member, f"{method!r} failed: {error}")

        await asyncio.gather(*map(tell, self.serving))

    def end(self) -> None:
        """Begin to end all workers, whatever state they are in."""
        self.target = 0
        for life in self._lives.values():
            life.cancel()

    async def ended(self) -> None:
        """Return once all have ended."""
        await asyncio.gather(*self._lives.values(), return_exceptions=True)

    def _add(self) -> None:
        slot = next(n for n in range(len(self.members) + 1) if n not in self.members or self._is_free(n))
        member = self.members.setdefault(slot, Member(slot))
        member.leaving = False
        self.members = dict(sorted(self.members.items()))
        life = self._lives[member] = asyncio.get_running_loop().create_task(self._live(member))
        life.add_done_callback(lambda done: self._lived(member, done))

    def _is_free(self, slot: int) -> bool:
        return self.members[slot] not in self._lives

    def _can_be_kept(self, member: Member) -> bool:
        # A life that is done, but not yet noted as such by `_lived`, looks up no more.
        return member.state is WorkerState.DRAINING and not self._lives[member].done()

    def _dismiss(self, member: Member) -> None:
        member.leaving = True
        if member.has_engine:
            member.changed.set()  # drains
        else:
            self._lives[member].cancel()

    def _lived(self, member: Member, life: asyncio.Task[None]) -> None:
        del self._lives[member]
        member.state = WorkerState.GONE
        if member.leaving:
            self._event("worker_left", worker=member.name)
        # What only this slot was to answer, any may answer now.
        self._dispatcher.queue.release(member.slot)
        self._dispatcher.dispatch()
        self._changes.notify()
        if not life.cancelled() and (error := life.exception()) is not None:
            self._fail(error if isinstance(error, RolloutError) else RolloutError(member.name, f"{error!r}"))

    async def _live(self, member: Member) -> None:
        """Fill a slot, again and again, for as long as it is wanted."""
        while _stays(member):
            member.begin(self._make(member.name))
            self._changes.notify()
            try:
                await self._work(member)
            except (WorkerLostError, WorkerFailedError) as error:
                self.lose(member, str(error))
                member.state = WorkerState.GONE
                if not _stays(member):
                    return
                pause = self.restarts.next(member, str(error))
                self._event("worker_restart", worker=member.name, restart=self.restarts.count, seconds=pause)
                await asyncio.sleep(pause)

    async def _work(self, member: Member) -> None:
        """One worker, from its place in the cluster to its end."""
        in_order = False
        try:
            try:
                await self._placed(member)
                await self._started(member)
            except WorkerFailedError as error:
                if self._one_served:
                    raise
                # It would be the same for every other: the model cannot be loaded, say.
                raise RolloutError(member.name, str(error)) from error
            async with self._heartbeats(member):
                await self._catch_up(member)
                self._serve(member)
                while not await self._drained(member):
                    await member.changed.wait()
                    member.changed.clear()
                    if member.lost is not None:
                        raise WorkerLostError(member.lost)
                    if self._keeper.behind(member):
                        self._dispatcher.close(member)
                        await self._catch_up(member)
                        self._serve(member)
            in_order = True
        finally:
            await self._end(member, in_order=in_order)

    async def _placed(self, member: Member) -> None:
        placed = asyncio.ensure_future(member.handle_now.placed())
        try:
            done, _ = await asyncio.wait([placed], timeout=PENDING_SECONDS)
            if not done:
                self._event("worker_pending", worker=member.name, seconds=PENDING_SECONDS)
            await placed
        finally:
            placed.cancel()

    async def _started(self, member: Member) -> None:
        member.state = WorkerState.STARTING
        self._changes.notify()
        try:
            async with asyncio.timeout(self._limits.start_seconds):
                member.heard(await member.handle_now.start())
        except TimeoutError as error:
            raise WorkerLostError(f"did not start within {self._limits.start_seconds:.0f} s") from error

    async def _catch_up(self, member: Member) -> None:
        """Have it take the newest weights; a worker found dead or hung meanwhile is not waited for."""
        caught_up = asyncio.ensure_future(self._keeper.catch_up(member))
        lost = asyncio.ensure_future(self._changes.until(lambda: member.lost is not None))
        try:
            await asyncio.wait([caught_up, lost], return_when=asyncio.FIRST_COMPLETED)
            if not caught_up.done():
                raise WorkerLostError(member.lost or "lost")
            await caught_up
        finally:
            caught_up.cancel()
            lost.cancel()
            await asyncio.gather(caught_up, lost, return_exceptions=True)

    def _serve(self, member: Member) -> None:
        """It has the newest weights: give it work."""
        if member.leaving or member.lost is not None:
            return
        member.state, self._one_served = WorkerState.SERVING, True
        if not member.announced:
            member.announced = True
            self._event(
                "worker_started",
                worker=member.name,
                node=member.node,
                pid=member.pid,
                weight_version=member.weight_version,
            )
        self._dispatcher.open(member)
        self._changes.notify()

    async def _drained(self, member: Member) -> bool:
        """If a worker has to leave: let it finish, or hand back, what it has. False where it stays after all."""
        if _stays(member):
            return False
        self._dispatcher.close(member)
        member.state = WorkerState.DRAINING
        self._event("worker_draining", worker=member.name, requests=len(member.entries))
        self._changes.notify()
        try:
            async with asyncio.timeout(self._limits.drain_seconds):
                await self._changes.until(lambda: not member.entries or not member.leaving or member.lost is not None)
        except TimeoutError:
            pass
        if member.lost is not None:
            raise WorkerLostError(member.lost)
        if _stays(member):
            member.state = WorkerState.SYNCING
            await self._catch_up(member)
            self._serve(member)
            return False
        handed_back = self._dispatcher.take_back(member, None)
        self._event("worker_drained", worker=member.name, handed_back=handed_back)
        return True

    @contextlib.asynccontextmanager
    async def _heartbeats(self, member: Member) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self._listen(member))
        try:
            yield
        finally:
            task.cancel()

    async def _listen(self, member: Member) -> None:
        """Lose a worker that is silent for too long."""
        silent, clock = self._limits.silent_seconds, asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(HEARTBEAT_SECONDS, silent / 4))
            beat = asyncio.ensure_future(member.handle_now.heartbeat())
            try:
                deadline = clock() + silent
                while not beat.done():
                    await asyncio.wait([beat], timeout=silent)
                    # Where this process itself stood still, that says nothing about the worker.
                    if not beat.done() and clock() < deadline + silent:
                        return self.lose(member, f"gave no sign of life for {silent:g} s")
                    deadline = clock() + silent
                member.heard(beat.result())
            except (WorkerLostError, WorkerFailedError) as error:
                return self.lose(member, str(error))
            finally:
                beat.cancel()

    async def _end(self, member: Member, *, in_order: bool) -> None:
        """End a worker's process: kindly if it answers, and in any case."""
        handle = member.handle_now
        try:
            if in_order or (member.has_engine and member.lost is None):
                async with asyncio.timeout(STOP_SECONDS):
                    await handle.stop()
        except (TimeoutError, WorkerLostError, WorkerFailedError) as error:
            self._event("worker_killed", worker=member.name, cause=f"did not stop by itself: {error}")
        finally:
            self._dispatcher.take_back(member, None)
            handle.kill()


def _stays(member: Member) -> bool:
    """Looked at again after every wait: its leaving may be decided, and taken back, in the middle of one."""
    return not member.leaving

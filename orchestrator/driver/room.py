"""Room on the cluster for the learner's ranks and the reward actor: it goes to them before rollout workers.

Without ranks or without the reward actor a job makes no step; with fewer workers it is slower. Invariant: while such a
part waits for room that workers have, these give it up, the least useful first, and no other one is requested. Workers
whose room is reserved together with the learner's have a bundle of it each, and their replacements the same one.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.cluster.placement import Bundles, bundle_for
from orchestrator.cluster.reservation import Reservation, ReservationState
from orchestrator.run.events import EventKind
from rollout_workers.pool.pool import RolloutPool

_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 1.5
"""Time for Ray to notice that room became free, before a worker gives up its own, and between two of them."""
_ALONE_SECONDS = 5.0
"""Time that a part waits alone, once workers have no more room to give. Then they wait beside it: a cluster that adds
nodes on demand has to see what the whole job needs. The time is doubled whenever workers got room before the part."""


class Room:
    """The room of one job's parts that come before its workers."""

    def __init__(self, pool: RolloutPool, on_event: Callable[..., None]) -> None:
        self._pool, self._on_event = pool, on_event
        self._holding: set[str] = set()
        self._with_workers: Reservation | None = None
        """The room in which rollout workers have theirs."""
        self._bundles: dict[int, int] = {}
        """The bundle of each worker in it, by slot."""

    def reserve(self, part: str, bundles: Bundles) -> Reservation:
        """Request room for a part's actors; `wait` for it before anything else is requested."""
        self.hold(part)
        reservation = Reservation(bundles)
        if bundles.workers:
            self._with_workers = reservation
            self._bundles.clear()
        return reservation

    def give_back(self, reservation: Reservation) -> None:
        """Give a part's room back. Workers in it end before; others are requested once there is room for them."""
        if reservation is self._with_workers:
            while self._pool.give_room():
                pass
            self._with_workers = None
        reservation.cancel()

    def place_worker(self, slot: int, others: Sequence[int]) -> Any:
        """Return Ray's scheduling strategy for the worker of a slot, beside those of other slots; None for anywhere."""
        if self._with_workers is None:
            return None
        occupied = [self._bundles[other] for other in others if other in self._bundles]
        bundle = bundle_for(slot, self._with_workers.bundles, occupied, self._bundles.pop(slot, None))
        if bundle is None:
            return None
        self._bundles[slot] = bundle
        return self._with_workers.place(bundle)

    def hold(self, part: str) -> None:
        """Let no worker be requested until the part has its room: it was lost, or is about to request some."""
        self._holding.add(part)
        self._pool.hold()

    def release(self, part: str) -> None:
        """Let workers be requested again, unless another part waits."""
        self._holding.discard(part)
        if not self._holding:
            self._pool.release()

    async def wait(
        self, part: str, reservation: Reservation, seconds: float, *, while_others_use_it: bool = False
    ) -> bool:
        """Return True once a part has its room, and False if it does not get it within `seconds`.

        Args:
            while_others_use_it: the time in which other jobs use what is needed does not count.
        """
        clock = asyncio.get_running_loop().time
        began, reported, alone_seconds = clock(), False, _ALONE_SECONDS
        patient_until, alone_until, latest = began + _PATIENCE_SECONDS, began + alone_seconds, began + seconds
        while (state := await reservation.state()) is not ReservationState.GRANTED:
            now = clock()
            if state is ReservationState.WAITING and while_others_use_it:
                latest = now + seconds
            if now >= latest:
                return False
            if now >= patient_until and not reported:
                reported = True
                self._on_event(
                    EventKind.ROOM_PENDING, part=part, needs=reservation.needs, seconds=round(now - began, 1)
                )
            # What is infeasible would not fit if all workers ended.
            taken = state is ReservationState.WAITING and self._pool.has_room
            if taken and part not in self._holding:
                self.hold(part)
                alone_seconds *= 2
                patient_until = now
            if taken and now >= patient_until:
                self._pool.give_room()
                patient_until, alone_until = now + _PATIENCE_SECONDS, now + alone_seconds
            elif not taken and now >= alone_until and reservation is not self._with_workers:
                self.release(part)
            await asyncio.sleep(_POLL_SECONDS)
        self.release(part)
        return True

"""The newest weights, and which worker has them.

Invariant: a worker that serves has the newest update that was given to `update`, or it was serving when that began and
is about to be told. A worker that fails to take it, or takes too long, changes nothing for the others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from protocol.weights import WeightUpdate
from rollout_workers.errors import ElsewhereError, WeightsUnavailableError, WorkerFailedError, WorkerLostError
from rollout_workers.limits import GRACE_SECONDS, RolloutLimits
from rollout_workers.pool.changes import Changes
from rollout_workers.pool.dispatcher import Dispatcher, OnEvent
from rollout_workers.pool.member import Member, WorkerState
from rollout_workers.weight_sync.sync import ObjectStoreSync, WeightSync

Republish = Callable[[], Awaitable[WeightUpdate]]


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What became of one update."""

    version: int
    seconds: float
    updated: tuple[str, ...]
    """Workers that have it."""
    late: tuple[str, ...]
    """Those that were not waited for: they join again once they have it."""
    dropped: Mapping[str, str]
    """Those that failed, and why: they are replaced."""


class WeightKeeper:
    """Keeps the latest update for those that join, and gives each new one to all that serve."""

    def __init__(
        self,
        limits: RolloutLimits,
        dispatcher: Dispatcher,
        changes: Changes,
        *,
        on_event: OnEvent,
        lose: Callable[[Member, str], None],
    ) -> None:
        self.sync: WeightSync = ObjectStoreSync()
        self.republish: Republish | None = None
        self.latest: WeightUpdate | None = None
        self._number = 0
        """Updates so far. Not the version, which goes back where a learner goes back to a checkpoint."""
        self._limits = limits
        self._dispatcher, self._changes = dispatcher, changes
        self._event, self._lose = on_event, lose
        self._one_at_a_time = asyncio.Lock()
        self._arriving: set[Member] = set()
        self._republished = 0

    def behind(self, member: Member) -> bool:
        """Whether a worker has to catch up by itself."""
        return member.update_number != self._number and member not in self._arriving

    async def update(self, update: WeightUpdate, serving: Sequence[Member]) -> UpdateReport:
        """Give new weights to the workers that serve; the others get them when they join.

        Returns once all have them or were given up, or `limits.lag_seconds` behind the first.
        """
        async with self._one_at_a_time:
            started = time.perf_counter()
            self._number += 1
            self.latest = update
            # Whoever waits for weights that could not be had tries these.
            self._changes.notify()
            for member in serving:
                self._dispatcher.close(member)
                member.state = WorkerState.SYNCING
                self._arriving.add(member)
            versions = self.sync.spread(update, {m.name: m.handle_now for m in serving})
            arrivals = {
                m.name: asyncio.ensure_future(self._arrive(m, update, self._number, versions[m.name])) for m in serving
            }
            await self._wait(list(arrivals.values()))
        failures = {name: a.result() for name, a in arrivals.items() if a.done()}
        return UpdateReport(
            version=update.version,
            seconds=time.perf_counter() - started,
            updated=tuple(name for name, failure in failures.items() if failure is None),
            late=tuple(name for name in arrivals if name not in failures),
            dropped={name: failure for name, failure in failures.items() if failure is not None},
        )

    async def catch_up(self, member: Member) -> None:
        """Give a worker that joins the newest weights, however often they change meanwhile."""
        while member.update_number != self._number:
            update, number = self.latest, self._number
            assert update is not None
            member.state = WorkerState.SYNCING
            try:
                await self._take(member, update, self.sync.join(update, member.handle_now))
            except WeightsUnavailableError as error:
                await self._find(update, number, error)
            else:
                member.update_number = number

    async def _arrive(self, member: Member, update: WeightUpdate, number: int, version: Awaitable[int]) -> str | None:
        """Wait until a worker has an update; why it has not, or None."""
        failure, handle = None, member.handle
        try:
            await self._take(member, update, version)
            member.update_number = number
        except WeightsUnavailableError as error:
            failure = str(error)
            self._event("weights_unavailable", worker=member.name, version=update.version, cause=failure)
        except (WorkerLostError, WorkerFailedError) as error:
            failure = str(error)
            self._event("update_failed", worker=member.name, version=update.version, cause=failure)
            if member.handle is handle:
                self._lose(member, failure)
        self._arriving.discard(member)
        if member.handle is not handle:
            return failure  # replaced meanwhile
        if member.state is WorkerState.SYNCING and not member.leaving and member.update_number == self._number:
            member.state = WorkerState.SERVING
            self._dispatcher.open(member)
        # Otherwise its life looks after it: it leaves, catches up, or ends.
        member.changed.set()
        self._changes.notify()
        return failure

    async def _take(self, member: Member, update: WeightUpdate, version: Awaitable[int]) -> None:
        """Wait for a worker to have an update. Raises WorkerLostError and so on where it will not."""
        seconds = self._limits.update_seconds + GRACE_SECONDS
        try:
            async with asyncio.timeout(seconds):
                taken = await version
        except TimeoutError as error:
            raise WorkerLostError(f"took longer than {seconds:.0f} s for a weight update") from error
        if taken != update.version:
            raise WorkerLostError(f"has weight version {taken} after an update to {update.version}")
        member.weight_version = taken

    async def _wait(self, arrivals: Sequence[asyncio.Future[str | None]]) -> None:
        """Until the first worker has its weights, and then for the others' lag."""
        pending = set(arrivals)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if any(arrival.result() is None for arrival in done):
                break
        if pending:
            await asyncio.wait(pending, timeout=self._limits.lag_seconds)

    async def _find(self, update: WeightUpdate, number: int, cause: WeightsUnavailableError) -> None:
        """Bytes are lost, or out of a worker's reach: have them published again, or wait for the next update."""
        if self._republished != number:
            self._republished = number
            if not isinstance(cause, ElsewhereError):
                self._event("weights_unavailable", version=update.version, cause=str(cause))
            if self.republish is not None:
                try:
                    again = await self.republish()
                except Exception as error:
                    # The learner is lost too: its next publication serves everyone.
                    self._event("weights_unavailable", version=update.version, cause=f"not published again: {error}")
                else:
                    if self._number == number and again.version == update.version:
                        self.latest = again
                        self._changes.notify()
                        return
        await self._changes.until(lambda: self._number != number or self.latest is not update)

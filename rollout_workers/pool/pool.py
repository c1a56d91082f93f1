"""The pool of rollout workers: any number of them, at any time, that answer questions and take new weights.

Invariant: every request ends exactly once: as a Group or a FailedQuestion, however many workers join, leave, die or
hang meanwhile; or with RolloutError, once the job's budget of failures is used up.

The parts: `crew` has the workers' lives, `dispatcher` the requests, `weight_keeper` the weights. All of them run on one
event loop, and what they share changes between two of its steps only.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from protocol.rollout import Answer, RolloutRequest, Sampling, WorkerSettings
from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import RolloutError
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.changes import Changes
from rollout_workers.pool.crew import MakeWorker, WorkerSet
from rollout_workers.pool.dispatcher import Dispatcher, OnEvent
from rollout_workers.pool.member import WorkerSnapshot, WorkerState
from rollout_workers.pool.request_queue import QueueEntry
from rollout_workers.pool.weight_keeper import Republish, UpdateReport, WeightKeeper
from rollout_workers.weight_sync.sync import WeightSync
from rollout_workers.worker.handle import start_actor


def _nobody_listens(kind: str, /, **detail: object) -> None:
    """For a pool whose events nobody wants."""


class RolloutPool:
    """Its methods are to be called on one event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        limits: RolloutLimits | None = None,
        *,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        on_event: OnEvent | None = None,
        make_worker: MakeWorker | None = None,
    ) -> None:
        """
        Args:
            on_event: called with the kind and the details of whatever happens to a worker or a request.
            make_worker: asks for a worker of a name; by default a Ray actor with an engine.
        """
        limits = limits or RolloutLimits()
        self._settings = settings
        self._event = on_event or _nobody_listens
        self._error: RolloutError | None = None
        self._changes = Changes()
        self._dispatcher = Dispatcher(
            limits, settings.max_concurrent, self._changes, on_event=self._event, lose=self._lose, fail=self._fail
        )
        self._keeper = WeightKeeper(
            limits,
            self._dispatcher,
            self._changes,
            on_event=self._event,
            lose=self._lose,
        )

        def actor(name: str) -> Any:
            return start_actor(name, settings, limits, num_cpus=cpus_per_worker, num_gpus=gpus_per_worker)

        self._crew = WorkerSet(
            make_worker or actor,
            self._dispatcher,
            self._keeper,
            limits,
            self._changes,
            on_event=self._event,
            fail=self._fail,
        )

    def __len__(self) -> int:
        """Workers there are, in whatever state."""
        return sum(view.state is not WorkerState.GONE for view in self.workers())

    @property
    def target(self) -> int:
        """Workers there should be."""
        return self._crew.target

    @property
    def alive(self) -> int:
        """Workers that have an engine and stay."""
        return sum(member.has_engine for member in self._crew.staying)

    @property
    def waiting(self) -> int:
        """Requests, or batches of them, that no worker has."""
        return len(self._dispatcher.queue)

    @property
    def in_flight(self) -> int:
        """Requests, or batches of them, that are with a worker."""
        return self._dispatcher.in_flight

    @property
    def counts(self) -> dict[str, int]:
        """What went wrong so far: workers that were replaced, requests asked again, and requests given up."""
        return {
            "restarts": self._crew.restarts.count,
            "requeued": self._dispatcher.requeued,
            "failed": self._dispatcher.failed,
        }

    def workers(self) -> list[WorkerSnapshot]:
        """What can be seen of each slot, by number; also of those that are gone."""
        return [member.view() for member in self._crew.members.values()]

    def carry_with(self, sync: WeightSync, republish: Republish | None = None) -> None:
        """Have weights brought by `sync`; without this call it is the object store.

        Args:
            republish: called where a worker needs weights whose bytes were lost with the process that held them, or
                are out of its reach. It returns the same version once more, in the object store, or the pool waits
                for the next update.
        """
        self._keeper.sync, self._keeper.republish = sync, republish

    async def start(self, count: int) -> None:
        """Ask for `count` workers; returns when the first serves, or all where whole batches are asked.

        Raises RolloutError where a first worker cannot start; then all are ended.
        """
        self.scale(count, "the job starts")
        try:
            await self.serving(count if self._settings.whole_batches else min(1, count))
        except BaseException:
            await self.stop()
            raise

    def scale(self, count: int, reason: str) -> None:
        """Want `count` workers from now on, also none. They join and leave in the background."""
        self._check()
        if count != self.target:
            self._event("scaled", before=self.target, target=count, reason=reason)
        self._crew.scale(count)

    async def serving(self, count: int) -> None:
        """Return once at least so many workers serve with the newest weights."""

        def enough() -> bool:
            self._check()
            return len(self._crew.serving) >= count

        await self._changes.until(enough)

    def submit(self, request: RolloutRequest, sampling: Sampling) -> asyncio.Future[Answer]:
        """Ask one question; the future ends with its answer. Cancelled, it need not be answered any more."""
        self._check()
        entry = QueueEntry([request], sampling)
        self._dispatcher.ask(entry)
        return entry.future

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling, *, by_rule: bool) -> list[Answer]:
        """One answer to each request, in their order.

        By rule, request i goes to slot i modulo their number and each slot gets its share as one batch: who answers
        what does not depend on timing. All workers have to serve for that; one that is replaced is asked its share
        again. Otherwise a request goes to whichever worker has the most room.
        """
        if by_rule:
            return await self._by_rule(requests, sampling)
        return await _all_of([self.submit(request, sampling) for request in requests])

    @property
    def carrier(self) -> Carrier:
        """How the learner is to publish the next update."""
        return self._keeper.sync.carrier

    async def update(self, update: WeightUpdate) -> UpdateReport:
        """Give new weights to the workers that serve; those that join later take them first.

        Returns once all have them, or failed (they are replaced), or are late (they join again once they have them).
        """
        self._check()
        report = await self._keeper.update(update, self._crew.serving)
        if report.late:
            self._event("update_late", version=report.version, workers=list(report.late))
        return report

    async def rest(self) -> None:
        """Have the workers give their GPUs' memory to whoever shares them. Nothing may be asked before `wake`."""
        await self._crew.tell_all("rest")

    async def wake(self) -> None:
        await self._crew.tell_all("wake")

    async def stop(self) -> None:
        """End all workers and their engines, whatever state they are in; what was asked is cancelled."""
        self._dispatcher.end(None)
        self._crew.end()
        await self._crew.ended()

    async def _by_rule(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Answer]:
        def all_serve() -> bool:
            self._check()
            return len(self._crew.serving) == self.target > 0

        await self._changes.until(all_serve)
        slots = self._crew.staying
        count = len(slots)
        entries = {
            i: QueueEntry(requests[i::count], sampling, member.slot, several=True)
            for i, member in enumerate(slots)
            if requests[i::count]
        }
        for entry in entries.values():
            self._dispatcher.ask(entry)
        shares = dict(zip(entries, await _all_of([entry.future for entry in entries.values()]), strict=True))
        return [shares[i % count][i // count] for i in range(len(requests))]

    def _lose(self, member: Any, cause: str) -> None:
        self._crew.lose(member, cause)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _fail(self, error: RolloutError) -> None:
        """The pool cannot go on: whoever waits for it is told, and all workers are ended."""
        if self._error is None:
            self._error = error
            self._dispatcher.end(error)
            self._crew.end()
            self._changes.notify()


async def _all_of(futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """The results in order; with the first error, or when this is cancelled, the others are cancelled."""
    try:
        return await asyncio.gather(*futures)
    finally:
        for future in futures:
            future.cancel()

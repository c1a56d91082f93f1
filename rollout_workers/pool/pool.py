"""The pool of rollout workers: an elastic set of them that answers questions and takes new weights.

Invariant: every request ends exactly once: as a Group or a FailedQuestion, however many workers join, leave, die or
hang; or with RolloutError, once the job's budget of failures is used up.

Its parts run on one event loop: `dispatcher` has the requests, `weight_keeper` the weights, `worker_set` the slots and
`worker_life` the task of each slot.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from protocol.rollout import Answer, RolloutRequest, Sampling, WorkerSettings
from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import RolloutError
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.dispatcher import Dispatcher, OnEvent
from rollout_workers.pool.engine_memory import EngineMemory
from rollout_workers.pool.request_queue import QueueEntry
from rollout_workers.pool.state_change import StateChange
from rollout_workers.pool.weight_keeper import Republish, UpdateReport, WeightKeeper
from rollout_workers.pool.worker_life import MakeWorker, WorkerLife
from rollout_workers.pool.worker_record import WorkerState, WorkerSummary
from rollout_workers.pool.worker_set import WorkerSet
from rollout_workers.weight_sync.sync import WeightSync
from rollout_workers.worker.handle import WorkerHandle, start_actor

PlaceWorker = Callable[[int, Sequence[int]], Any]
"""Decides where the worker of a slot goes, beside those of other slots: Ray's scheduling strategy, or None."""


def _ignore_event(kind: str, /, **detail: object) -> None:
    """Default for `on_event`."""


class RolloutPool:
    """Call its methods on one event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        limits: RolloutLimits | None = None,
        *,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        on_event: OnEvent | None = None,
        make_worker: MakeWorker | None = None,
        place: PlaceWorker | None = None,
    ) -> None:
        """
        Args:
            on_event: called with the kind and the details of each event of a worker or a request.
            make_worker: requests a worker of a given name; default: a Ray actor with an engine.
            place: called before a worker is requested, with its slot and the other slots that stay;
                returns Ray's scheduling strategy for it, or None for any place with enough room. Default: None.
        """
        limits = limits or RolloutLimits()
        self._settings = settings
        self._event = event = on_event or _ignore_event
        self._error: RolloutError | None = None
        self._changes = changes = StateChange()

        def start_worker(name: str) -> WorkerHandle:
            return start_actor(
                name,
                settings,
                limits,
                num_cpus=cpus_per_worker,
                num_gpus=gpus_per_worker,
                place=None if place is None else self._placed_by(place, name),
            )

        self._dispatcher = Dispatcher(limits, settings.max_concurrent, changes, on_event=event, fail=self._fail)
        self._keeper = WeightKeeper(limits, self._dispatcher, changes, on_event=event, shares_gpu=settings.shares_gpu)
        self._takes_room = bool(cpus_per_worker or gpus_per_worker)
        self._life = WorkerLife(
            make_worker or start_worker, self._dispatcher, self._keeper, limits, changes, on_event=event
        )
        self._workers = WorkerSet(
            self._life,
            self._dispatcher,
            changes,
            on_event=event,
            fail=self._fail,
        )
        self.memory = EngineMemory(
            self._workers, self._life, self._keeper, self._dispatcher, seconds=limits.silent_seconds
        )
        """The GPU memory that the engines share with the learner."""

    def __len__(self) -> int:
        """Return the number of workers, in whatever state."""
        return sum(worker.state is not WorkerState.GONE for worker in self.workers())

    @property
    def target(self) -> int:
        """Number of workers that are wanted."""
        return self._workers.target

    @property
    def alive(self) -> int:
        """Number of workers that have an engine and stay."""
        return sum(worker.has_engine for worker in self._workers.wanted)

    @property
    def waiting(self) -> int:
        """Number of queued requests; a batch counts as one."""
        return len(self._dispatcher.queue)

    @property
    def in_flight(self) -> int:
        """Number of requests that a worker has; a batch counts as one."""
        return self._dispatcher.in_flight

    @property
    def counts(self) -> dict[str, int]:
        """Failures so far: workers that were replaced, requests sent again, and requests given up."""
        return {
            "restarts": self._life.restarts,
            "requeued": self._dispatcher.requeued,
            "failed": self._dispatcher.failed,
        }

    def workers(self) -> list[WorkerSummary]:
        """Return a summary of each slot, by number; also of slots without a worker."""
        return [worker.summary() for worker in self._workers.workers.values()]

    def use_weight_sync(self, sync: WeightSync, republish: Republish | None = None) -> None:
        """Bring weights to the workers by `sync` from now on. Default: the object store.

        Args:
            republish: called when a worker needs weights whose bytes were lost with the process that held them, or are
                out of its reach. It publishes the same version again, in the object store. If it is missing or returns
                another version, the worker waits for the next update.
        """
        self._keeper.sync, self._keeper.republish = sync, republish

    async def start(self, count: int) -> None:
        """Request `count` workers; return when the first serves, with `settings.whole_batches` when all do.

        Raises RolloutError where a first worker cannot start; then all are ended.
        """
        self.scale(count, "the job starts")
        await self.wait_started()

    async def wait_started(self) -> None:
        """Return when the first worker of the target serves, with `settings.whole_batches` when all do.

        The target may change meanwhile. Raises RolloutError where a first worker cannot start; then all are ended.
        """

        def enough() -> bool:
            self._check()
            needed = self.target if self._settings.whole_batches else min(1, self.target)
            return len(self._workers.serving) >= needed

        try:
            await self._changes.wait_for(enough)
        except BaseException:
            await self.stop()
            raise

    def scale(self, count: int, reason: str) -> None:
        """Set the target to `count` workers, 0 included. They join and leave in the background."""
        self._check()
        if count != self.target:
            self._event("scaled", before=self.target, target=count, reason=reason)
        self._workers.scale(count)

    @property
    def has_room(self) -> bool:
        """True if a worker has room on the cluster that others could use."""
        return self._takes_room and bool(self._workers.placed)

    def hold(self) -> None:
        """Let others have the cluster's room first: request no workers, nor wait for room, until `release`."""
        if self._takes_room:
            self._workers.hold()

    def release(self) -> None:
        """Request the workers up to the target again."""
        self._workers.release()

    def give_room(self) -> bool:
        """End the least useful worker at once, so that others get its room. Return False if no worker has any.

        Its requests are queued again. The target stays: after `release` another worker takes its place, once there is
        room for it.
        """
        return self._takes_room and self._workers.give_room()

    async def wait_until_serving(self, count: int) -> None:
        """Return once at least `count` workers serve with the newest weights."""

        def enough() -> bool:
            self._check()
            return len(self._workers.serving) >= count

        await self._changes.wait_for(enough)

    def submit(self, request: RolloutRequest, sampling: Sampling) -> asyncio.Future[Answer]:
        """Queue one question for the least loaded worker; the future ends with its answer.

        Where the future is cancelled, the worker stops working on the question.
        """
        self._check()
        entry = QueueEntry([request], sampling)
        self._dispatcher.submit(entry)
        return entry.future

    async def generate(
        self, requests: Sequence[RolloutRequest], sampling: Sampling, *, round_robin: bool | None = None
    ) -> list[Answer]:
        """Return one answer to each request, in their order.

        Args:
            round_robin: send request i to slot i modulo the number of slots, each slot's share as one batch, so that
                the assignment does not depend on timing. This waits until all workers serve; a replacement is sent the
                share of the worker that it replaces. Default: as `settings.whole_batches` says.
        """
        if self._settings.whole_batches if round_robin is None else round_robin:
            return await self._generate_round_robin(requests, sampling)
        return await _all_of([self.submit(request, sampling) for request in requests])

    @property
    def carrier(self) -> Carrier:
        """Carrier by which the learner has to publish the next update."""
        return self._keeper.sync.carrier

    async def update(self, update: WeightUpdate) -> UpdateReport:
        """Give new weights to the workers that serve; workers that join later take them first.

        Returns once all have them, or failed (they are replaced), or are late (they serve again once they have them).
        """
        self._check()
        return await self._keeper.update(update, self._workers.serving)

    async def stop(self) -> None:
        """End all workers and their engines, whatever state they are in, and cancel unanswered requests."""
        self._dispatcher.end(None)
        self._workers.cancel()
        await self._workers.wait_ended()

    async def _generate_round_robin(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Answer]:
        def all_serve() -> bool:
            self._check()
            return len(self._workers.serving) == self.target > 0

        await self._changes.wait_for(all_serve)
        workers = self._workers.wanted
        count = len(workers)
        entries = {
            i: QueueEntry(requests[i::count], sampling, worker.slot, is_batch=True)
            for i, worker in enumerate(workers)
            if requests[i::count]
        }
        for entry in entries.values():
            self._dispatcher.submit(entry)
        shares = dict(zip(entries, await _all_of([entry.future for entry in entries.values()]), strict=True))
        return [shares[i % count][i // count] for i in range(len(requests))]

    def _placed_by(self, place: PlaceWorker, name: str) -> Any:
        slot = next(worker.slot for worker in self._workers.workers.values() if worker.name == name)
        return place(slot, [worker.slot for worker in self._workers.wanted if worker.slot != slot])

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _fail(self, error: RolloutError) -> None:
        """End all requests with `error`, and all workers: the pool cannot continue."""
        if self._error is None:
            self._error = error
            self._dispatcher.end(error)
            self._workers.cancel()
            self._changes.notify()


async def _all_of(futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Return the results in order. On the first error or a cancellation, cancel the other futures."""
    try:
        return await asyncio.gather(*futures)
    finally:
        for future in futures:
            future.cancel()

"""Gives queued requests to workers, and takes them back from workers that are lost.

Invariant: an entry is in the queue, with exactly one worker, or ended. The entries of a lost worker return to the front
of the queue. An entry that came back `limits.attempts` times ends as failed, so no request is repeated forever.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

from protocol.rollout import Answer, Group, NoAnswer
from rollout_workers.errors import RolloutError, WorkerFailedError, WorkerLostError
from rollout_workers.limits import GRACE_SECONDS, RolloutLimits
from rollout_workers.pool.request_queue import QueueEntry, RequestQueue
from rollout_workers.pool.state_change import StateChange
from rollout_workers.pool.worker_record import WorkerRecord, WorkerState

OnEvent = Callable[..., None]
"""Called with the kind of an event and its details by name."""

_SPARE = 0.25
"""Share of its capacity that a worker is given in addition, so that the engine never waits for the pool. Not applied
when few requests are left: they would wait in one engine while another is idle."""


class Dispatcher:
    """The request queue of a pool, and the workers that accept requests."""

    def __init__(
        self,
        limits: RolloutLimits,
        max_concurrent: int,
        changes: StateChange,
        *,
        on_event: OnEvent,
        fail: Callable[[RolloutError], None],
    ) -> None:
        self.requeued = 0
        """Number of requests that were sent again."""
        self.failed = 0
        """Number of requests that failed in all their attempts."""
        self.queue = RequestQueue()
        self._limits = limits
        self._capacity, self._spare = max_concurrent, int(max_concurrent * _SPARE)
        self._open = _WorkersByLoad()
        self._assigned: set[QueueEntry] = set()
        self._failed_in_row = 0
        self._changes = changes
        self._event, self._fail = on_event, fail

    @property
    def in_flight(self) -> int:
        """Number of entries that a worker has."""
        return len(self._assigned)

    def submit(self, entry: QueueEntry) -> None:
        """Queue an entry; its future ends with its answers."""
        self.queue.append(entry)
        entry.future.add_done_callback(lambda future: _abort(entry) if future.cancelled() else None)
        self.dispatch()
        if entry.slot is not None:
            for worker in self._open:
                if worker.slot == entry.slot:
                    self._dispatch_slot(worker)
                    break

    def open(self, worker: WorkerRecord) -> None:
        """Give a worker requests from now on."""
        self._open.put(worker)
        self._dispatch_slot(worker)
        self.dispatch()

    def close(self, worker: WorkerRecord) -> None:
        """Give a worker no more requests; it keeps those that it has."""
        self._open.remove(worker)

    def dispatch(self) -> None:
        """Assign queued entries to the least loaded workers while they have room."""
        while (entry := self.queue.first()) is not None:
            worker = self._open.least_loaded()
            if worker is None or not self._has_room(worker, entry):
                return
            self._assign(worker, self.queue.pop())

    def lose(self, worker: WorkerRecord, cause: str) -> None:
        """Mark a worker as dead or hung and requeue its entries; its slot's task ends its process."""
        if worker.lost is None and worker.state is not WorkerState.GONE:
            worker.lost = cause
            taken = self.take_back(worker, cause)
            self._event(
                "worker_lost", worker=worker.name, node=worker.node, pid=worker.pid, cause=cause, requeued=taken
            )
            worker.changed.set()
            self._changes.notify()

    def take_back(self, worker: WorkerRecord, cause: str | None) -> int:
        """Requeue all entries of a worker; return their number. Without a cause it does not count as an attempt."""
        self.close(worker)
        entries = list(worker.entries)
        for entry in entries:
            worker.remove(entry)
            self._assigned.discard(entry)
            if entry.task is not None and entry.task is not asyncio.current_task():
                entry.task.cancel()
            entry.task = None
            if cause is not None:
                entry.count_lost_attempt()
        self._requeue(entries, worker, cause or "")
        return len(entries)

    def end(self, error: RolloutError | None) -> None:
        """End every entry: with the error, or as cancelled."""
        for entry in [*self.queue, *self._assigned]:
            if not entry.future.done():
                entry.future.set_exception(error) if error is not None else entry.future.cancel()
                # Retrieved here, so that asyncio does not log it where no caller waits any more.
                if error is not None:
                    entry.future.exception()

    def _dispatch_slot(self, worker: WorkerRecord) -> None:
        """Assign a worker the entries that wait for its slot."""
        while worker in self._open and self.queue.first(worker.slot) is not None:
            self._assign(worker, self.queue.pop(worker.slot))

    def _has_room(self, worker: WorkerRecord, entry: QueueEntry) -> bool:
        if not worker.load:
            return True  # an idle worker takes any entry, however large
        many_left = self.queue.shared_length * entry.sequences > len(self._open) * self._spare
        room = self._capacity + (self._spare if many_left else 0)
        return worker.load + entry.sequences <= room

    def _assign(self, worker: WorkerRecord, entry: QueueEntry) -> None:
        worker.add(entry)
        self._assigned.add(entry)
        self._open.put(worker)
        entry.task = asyncio.get_running_loop().create_task(self._run(worker, entry))

    async def _run(self, worker: WorkerRecord, entry: QueueEntry) -> None:
        """Have a worker answer an entry. Cancelled when the entry is taken back, or its caller cancels it."""
        seconds = self._limits.request_seconds + GRACE_SECONDS
        requests, handle = entry.unanswered, worker.current_handle
        try:
            async with asyncio.timeout(seconds):
                outcomes = await handle.generate(requests, entry.sampling)
        except (TimeoutError, WorkerLostError) as error:
            if worker.handle is handle:  # not replaced in the meantime
                self.lose(worker, str(error) or f"gave no answer to a request within {seconds:.0f} s")
        except WorkerFailedError as error:
            self._record(worker, entry, [NoAnswer(str(error))] * len(requests))
        except asyncio.CancelledError:
            self._release(worker, entry)
            self.dispatch()
            raise
        except Exception as error:
            # A bug on this side, not a fault of the worker: no retry would answer the entry.
            self._fail(RolloutError(worker.name, f"the request failed: {type(error).__name__}: {error}"))
            raise
        else:
            if len(outcomes) != len(requests):
                outcomes = [NoAnswer(f"{len(outcomes)} answers to {len(requests)} requests")] * len(requests)
            self._record(worker, entry, outcomes)

    def _record(self, worker: WorkerRecord, entry: QueueEntry, outcomes: Sequence[Answer | NoAnswer]) -> None:
        if self._release(worker, entry):
            missing = entry.record(outcomes)
            for outcome in outcomes:
                if not isinstance(outcome, NoAnswer):
                    worker.count(outcome)
                if isinstance(outcome, Group):
                    self._failed_in_row = 0
            if missing:
                entry.attempts += 1
                cause = missing[0].cause
                self._event(
                    "rollout_attempt_failed",
                    worker=worker.name,
                    question=entry.unanswered[0].question.key,
                    requests=len(missing),
                    attempt=entry.attempts,
                    cause=cause,
                )
                self._requeue([entry], worker, cause)
        self._dispatch_slot(worker)
        self.dispatch()

    def _release(self, worker: WorkerRecord, entry: QueueEntry) -> bool:
        """Remove an entry from its worker. Return False if it was taken back and may be with another worker."""
        if entry.task is not asyncio.current_task() or not worker.remove(entry):
            return False
        self._assigned.discard(entry)
        entry.task = None
        if worker in self._open:
            self._open.put(worker)
        elif not worker.entries:
            self._changes.notify()  # it may be drained now
        return True

    def _requeue(self, entries: Iterable[QueueEntry], worker: WorkerRecord, cause: str) -> None:
        """Queue entries again that have attempts left, and end the others as failed."""
        retried = []
        for entry in entries:
            if entry.future.done():
                continue
            if entry.attempts < self._limits.attempts:
                self.requeued += len(entry.unanswered)
                retried.append(entry)
                continue
            failed = entry.give_up(worker.name, cause)
            self.failed += failed
            self._failed_in_row += failed
        self.queue.put_back(retried)
        if self._failed_in_row >= self._limits.max_failed_in_row:
            self._fail(
                RolloutError(worker.name, f"{self._failed_in_row} questions in a row failed; the last cause: {cause}")
            )


class _WorkersByLoad:
    """Workers that accept requests, by load: finding the next one costs the same for one worker and for hundreds."""

    def __init__(self) -> None:
        self._by_load: dict[int, dict[WorkerRecord, None]] = {}
        self._load: dict[WorkerRecord, int] = {}

    def __contains__(self, worker: WorkerRecord) -> bool:
        return worker in self._load

    def __len__(self) -> int:
        return len(self._load)

    def __iter__(self) -> Iterator[WorkerRecord]:
        return iter(tuple(self._load))

    def put(self, worker: WorkerRecord) -> None:
        """Add a worker, or move it to its current load."""
        self.remove(worker)
        self._load[worker] = worker.load
        self._by_load.setdefault(worker.load, {})[worker] = None

    def remove(self, worker: WorkerRecord) -> None:
        load = self._load.pop(worker, None)
        if load is not None:
            del self._by_load[load][worker]
            if not self._by_load[load]:
                del self._by_load[load]

    def least_loaded(self) -> WorkerRecord | None:
        """Return the least loaded worker; among equals, the one that was put first.

        There are few different loads, however many workers: multiples of a group, up to an engine's capacity.
        """
        return next(iter(self._by_load[min(self._by_load)])) if self._by_load else None


def _abort(entry: QueueEntry) -> None:
    """Cancel an entry's task when its caller no longer waits: the worker then stops working on it."""
    if entry.task is not None:
        entry.task.cancel()

"""The elastic set of workers: as many slots as the target, each with a task that runs its workers.

Invariant: every slot up to the target has a worker or is about to have one, until the budget of restarts is used up.
"""

import asyncio
from collections.abc import Callable

from rollout_workers.errors import RolloutError
from rollout_workers.pool.dispatcher import Dispatcher, OnEvent
from rollout_workers.pool.state_change import StateChange
from rollout_workers.pool.worker_life import WorkerLife
from rollout_workers.pool.worker_record import WorkerRecord, WorkerState

_BY_USE = (WorkerState.STARTING, WorkerState.DRAINING, WorkerState.SYNCING, WorkerState.SERVING)
"""States with room on the cluster, the least useful first."""


class WorkerSet:
    """Worker records by slot number."""

    def __init__(
        self,
        life: WorkerLife,
        dispatcher: Dispatcher,
        changes: StateChange,
        *,
        on_event: OnEvent,
        fail: Callable[[RolloutError], None],
    ) -> None:
        self.workers: dict[int, WorkerRecord] = {}
        self.target = 0
        self._life, self._dispatcher, self._changes = life, dispatcher, changes
        self._event, self._fail = on_event, fail
        self._tasks: dict[WorkerRecord, asyncio.Task[None]] = {}

    @property
    def wanted(self) -> list[WorkerRecord]:
        """Slots that do not leave, by number."""
        return [worker for worker in self.workers.values() if not worker.leaving]

    @property
    def serving(self) -> list[WorkerRecord]:
        """Workers that are given requests, by number."""
        return [worker for worker in self.workers.values() if worker.state is WorkerState.SERVING]

    @property
    def placed(self) -> list[WorkerRecord]:
        """Workers with room on the cluster, by number."""
        return [worker for worker in self.workers.values() if worker.state in _BY_USE]

    def scale(self, count: int) -> None:
        """Set the target to `count` workers; they join and leave in the background."""
        self.target = count
        wanted = self.wanted
        draining = [worker for worker in self.workers.values() if worker.leaving and self._can_be_kept(worker)]
        for worker in draining[: max(0, count - len(wanted))]:
            # It still has its engine and its weights: any other worker would take longer.
            worker.leaving = False
            worker.changed.set()
        for _ in range(count - len(self.wanted)):
            self._add()
        # Workers with the least progress leave first, then the highest numbers.
        wanted.sort(key=lambda w: (w.has_engine, w.state is WorkerState.STARTING, -w.slot))
        for worker in wanted[: max(0, len(wanted) - count)]:
            self._dismiss(worker)
        self._changes.notify()

    def hold(self) -> None:
        """Request no workers until `release`, and withdraw the requests that the cluster has no room for yet."""
        self._life.may_request.clear()
        for worker in self.workers.values():
            if worker.state is WorkerState.PENDING:
                self._life.withdraw(worker)

    def release(self) -> None:
        """Request workers again."""
        self._life.may_request.set()

    def give_room(self) -> bool:
        """End the least useful worker that has room on the cluster. Return False if none has any."""
        if not self.placed:
            return False
        self._life.withdraw(min(self.placed, key=lambda worker: (_BY_USE.index(worker.state), -worker.slot)))
        return True

    def cancel(self) -> None:
        """Start to end all workers, whatever state they are in."""
        self.target = 0
        for task in self._tasks.values():
            task.cancel()

    async def wait_ended(self) -> None:
        """Return once all workers have ended."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _add(self) -> None:
        slot = next(n for n in range(len(self.workers) + 1) if n not in self.workers or self._is_free(n))
        worker = self.workers.setdefault(slot, WorkerRecord(slot))
        worker.leaving = False
        self.workers = dict(sorted(self.workers.items()))
        task = self._tasks[worker] = asyncio.get_running_loop().create_task(self._life.run(worker))
        task.add_done_callback(lambda done: self._ended(worker, done))

    def _is_free(self, slot: int) -> bool:
        return self.workers[slot] not in self._tasks

    def _can_be_kept(self, worker: WorkerRecord) -> bool:
        # A task may be done before `_ended` is called: it would not notice that the worker is wanted again.
        return worker.state is WorkerState.DRAINING and not self._tasks[worker].done()

    def _dismiss(self, worker: WorkerRecord) -> None:
        worker.leaving = True
        if worker.has_engine:
            worker.changed.set()  # drains
        else:
            self._tasks[worker].cancel()

    def _ended(self, worker: WorkerRecord, task: asyncio.Task[None]) -> None:
        del self._tasks[worker]
        worker.state = WorkerState.GONE
        if worker.leaving:
            self._event("worker_left", worker=worker.name)
        # Requests that only this slot was to answer may go to any worker now.
        self._dispatcher.queue.release(worker.slot)
        self._dispatcher.dispatch()
        self._changes.notify()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error if isinstance(error, RolloutError) else RolloutError(worker.name, f"{error!r}"))

"""One slot of the pool, and the worker that currently fills it."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from protocol.rollout import Answer, Group, WorkerStatus
from rollout_workers.pool.request_queue import QueueEntry
from rollout_workers.worker.handle import WorkerHandle


class WorkerState(StrEnum):
    """The states of a worker, from the request for its resources to its end."""

    PENDING = "pending"
    """Requested from Ray, which has no room for it yet."""
    STARTING = "starting"
    """Its process runs; the engine loads the model."""
    SYNCING = "syncing"
    """Taking new weights; it is given no requests."""
    SERVING = "serving"
    """Answering requests."""
    DRAINING = "draining"
    """Leaving: it finishes the requests that it has."""
    GONE = "gone"
    """It has no process. While the slot is wanted, a replacement follows after a pause."""


@dataclass(frozen=True, slots=True)
class WorkerSummary:
    """A worker as seen from outside. Counts are those of its slot, summed over all workers that filled it."""

    name: str
    state: WorkerState
    node: str
    pid: int
    weight_version: int
    requests_finished: int
    tokens_generated: int
    restarts: int


class WorkerRecord:
    """A slot. Its name is also that of its workers: a replacement keeps the name of the worker it replaces."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.name = f"rollout-{slot}"
        self.state = WorkerState.GONE
        self.handle: WorkerHandle | None = None
        self.node, self.pid, self.weight_version = "", 0, 0
        self.update_number = 0
        """Number of the last weight update it took; 0 is the checkpoint it started from."""
        self.entries: dict[QueueEntry, None] = {}
        """Unanswered entries that were given to it, in order."""
        self.load = 0
        """Number of sequences in these entries."""
        self.requests_finished = self.tokens_generated = self.restarts = 0
        self.losses_in_row = 0
        """Number of consecutive workers of this slot that were lost without an answer."""
        self.announced = False
        """True once the event `worker_started` was written for the current worker."""
        self.withdrawn = asyncio.Event()
        """Set once the current worker has to end at once, to give up its room; another one follows later."""
        self.asleep = False
        """True while its engine has given its GPU memory to the learner."""
        self.leaving = False
        self.lost: str | None = None
        """Why the current worker is lost; None again for the next one."""
        self.blameless = False
        """True if the current worker is lost because another one failed: it uses up no restart."""
        self.changed = asyncio.Event()
        """Wakes the slot's task: the worker is lost, has to leave, or has to take new weights."""

    @property
    def has_engine(self) -> bool:
        return self.state in (WorkerState.SYNCING, WorkerState.SERVING, WorkerState.DRAINING)

    @property
    def current_handle(self) -> WorkerHandle:
        if self.handle is None:
            raise RuntimeError(f"{self.name} has no worker")
        return self.handle

    def is_wanted(self) -> bool:
        """Return whether the slot stays. Check it after every wait: the target may have changed during one."""
        return not self.leaving

    def fill(self, handle: WorkerHandle) -> None:
        """Put a new worker into the slot."""
        self.handle = handle
        self.state, self.lost, self.announced, self.asleep = WorkerState.PENDING, None, False, False
        self.node, self.pid, self.weight_version, self.update_number = "", 0, 0, 0
        self.blameless = False
        self.changed.clear()
        self.withdrawn.clear()

    def record_status(self, status: WorkerStatus) -> None:
        self.node, self.pid, self.weight_version = status.node, status.pid, status.weight_version

    def add(self, entry: QueueEntry) -> None:
        self.entries[entry] = None
        self.load += entry.sequences

    def remove(self, entry: QueueEntry) -> bool:
        """Remove an entry before its answers are recorded. Return False if the worker does not have it."""
        if entry not in self.entries:
            return False
        del self.entries[entry]
        self.load -= entry.sequences
        return True

    def count(self, answer: Answer) -> None:
        """Add an answer to the slot's counts."""
        self.requests_finished += 1
        self.losses_in_row = 0
        if isinstance(answer, Group):
            self.tokens_generated += sum(len(c.token_ids) for c in answer.completions)

    def summary(self) -> WorkerSummary:
        return WorkerSummary(
            name=self.name,
            state=self.state,
            node=self.node,
            pid=self.pid,
            weight_version=self.weight_version,
            requests_finished=self.requests_finished,
            tokens_generated=self.tokens_generated,
            restarts=self.restarts,
        )

"""One slot of the pool, and whichever worker fills it now."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from protocol.rollout import Answer, Group, WorkerStatus
from rollout_workers.pool.request_queue import QueueEntry
from rollout_workers.worker.handle import WorkerHandle


class WorkerState(StrEnum):
    """Where a worker is between being asked for and its end."""

    PENDING = "pending"
    """Asked of Ray, which has no room for it yet."""
    STARTING = "starting"
    """Its process runs; the engine loads the model."""
    SYNCING = "syncing"
    """It takes new weights and is given no work."""
    SERVING = "serving"
    DRAINING = "draining"
    """It has to leave, and ends what it was asked before."""
    GONE = "gone"
    """It has no process. If its slot is wanted, another one follows after a pause."""


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """What can be seen of a worker. Counts are of its slot: of all workers that filled it."""

    name: str
    state: WorkerState
    node: str
    pid: int
    weight_version: int
    requests_finished: int
    tokens_generated: int
    restarts: int


class Member:
    """A slot. Its name is that of its workers: a replacement takes the name of the one it replaces."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.name = f"rollout-{slot}"
        self.state = WorkerState.GONE
        self.handle: WorkerHandle | None = None
        self.node, self.pid, self.weight_version = "", 0, 0
        self.update_number = 0
        """Which of the pool's updates it has; 0 is the checkpoint it started from."""
        self.entries: dict[QueueEntry, None] = {}
        """What it was asked and has not answered, in order."""
        self.load = 0
        """Sequences of these."""
        self.requests_finished = self.tokens_generated = self.restarts = 0
        self.losses_in_row = 0
        """Workers of this slot that were lost without having answered anything."""
        self.announced = False
        """Whether its worker was said to have started."""
        self.leaving = False
        self.lost: str | None = None
        """Why its worker is lost; set until the next one."""
        self.changed = asyncio.Event()
        """Set where its life has to look up: it is lost, has to leave, or there are new weights."""

    @property
    def has_engine(self) -> bool:
        return self.state in (WorkerState.SYNCING, WorkerState.SERVING, WorkerState.DRAINING)

    @property
    def handle_now(self) -> WorkerHandle:
        if self.handle is None:
            raise RuntimeError(f"{self.name} has no worker")
        return self.handle

    def begin(self, handle: WorkerHandle) -> None:
        """A new worker fills the slot."""
        self.handle = handle
        self.state, self.lost, self.announced = WorkerState.PENDING, None, False
        self.node, self.pid, self.weight_version, self.update_number = "", 0, 0, 0
        self.changed.clear()

    def heard(self, status: WorkerStatus) -> None:
        self.node, self.pid, self.weight_version = status.node, status.pid, status.weight_version

    def given(self, entry: QueueEntry) -> None:
        self.entries[entry] = None
        self.load += entry.sequences

    def done_with(self, entry: QueueEntry) -> bool:
        """Forget an entry, before its answers are taken; whether it was this worker's."""
        if entry not in self.entries:
            return False
        del self.entries[entry]
        self.load -= entry.sequences
        return True

    def count(self, answer: Answer) -> None:
        self.requests_finished += 1
        self.losses_in_row = 0
        if isinstance(answer, Group):
            self.tokens_generated += sum(len(c.token_ids) for c in answer.completions)

    def view(self) -> WorkerSnapshot:
        return WorkerSnapshot(
            name=self.name,
            state=self.state,
            node=self.node,
            pid=self.pid,
            weight_version=self.weight_version,
            requests_finished=self.requests_finished,
            tokens_generated=self.tokens_generated,
            restarts=self.restarts,
        )

"""Requests that the pool has not answered yet: their order, their attempts, and their result.

Invariant: an entry's future ends exactly once, with one answer to each of its requests in their order. An answer that
arrived is kept; only requests without one are sent again.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from protocol.rollout import Answer, FailedQuestion, Failure, NoAnswer, RolloutRequest, Sampling


class QueueEntry:
    """Requests that are sent to one worker together."""

    def __init__(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        slot: int | None = None,
        *,
        is_batch: bool = False,
    ) -> None:
        self.sampling = sampling
        self.slot = slot
        """The only slot that may answer, in deterministic jobs; None for any."""
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """Result: the list of answers if `is_batch`, else the only answer."""
        self.task: asyncio.Task[None] | None = None
        """Waits for the worker's answer while a worker has the entry."""
        self.attempts = 0
        """Number of times the entry came back without an answer."""
        self._requests, self._is_batch = tuple(requests), is_batch
        self._answers: dict[int, Answer] = {}
        self._reasons: dict[int, Failure] = {}
        """By place of a request, why the last attempt gave no answer."""

    @property
    def unanswered(self) -> list[RolloutRequest]:
        """Requests without an answer."""
        return [request for i, request in enumerate(self._requests) if i not in self._answers]

    @property
    def sequences(self) -> int:
        """Number of sequences that an engine decodes for the unanswered requests."""
        return (len(self._requests) - len(self._answers)) * self.sampling.group_size

    def record(self, outcomes: Sequence[Answer | NoAnswer]) -> list[NoAnswer]:
        """Keep a worker's answers to `unanswered`; return the outcomes that are not answers.

        The future ends with the last answer.
        """
        places = [i for i in range(len(self._requests)) if i not in self._answers]
        missing = []
        for place, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, NoAnswer):
                missing.append(outcome)
                self._reasons[place] = outcome.reason
            else:
                self._answers[place] = outcome
        if not missing:
            self._end()
        return missing

    def count_lost_attempt(self) -> None:
        """Count an attempt whose worker was lost."""
        self.attempts += 1
        self._reasons.clear()

    def give_up(self, worker: str, cause: str) -> int:
        """Record the unanswered requests as failed; return their number."""
        failed = 0
        for i, request in enumerate(self._requests):
            if i not in self._answers:
                detail = f"failed in {self.attempts} attempts; the last cause: {cause}"
                reason = self._reasons.get(i, Failure.RETRIES)
                self._answers[i] = FailedQuestion(request.question, reason, detail, worker)
                failed += 1
        self._end()
        return failed

    def _end(self) -> None:
        if not self.future.done():
            answers = [self._answers[i] for i in range(len(self._requests))]
            self.future.set_result(answers if self._is_batch else answers[0])


class RequestQueue:
    """Entries that wait for a worker, first come first served; returned entries go to the front."""

    def __init__(self) -> None:
        self._shared: deque[QueueEntry] = deque()
        self._by_slot: dict[int, deque[QueueEntry]] = {}

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[QueueEntry]:
        for queue in (self._shared, *self._by_slot.values()):
            yield from (entry for entry in queue if not entry.future.done())

    @property
    def shared_length(self) -> int:
        """Upper bound of the entries that any worker may answer: cancelled ones may still be among them."""
        return len(self._shared)

    def append(self, entry: QueueEntry) -> None:
        self._queue(entry.slot).append(entry)

    def put_back(self, entries: Sequence[QueueEntry]) -> None:
        """Return entries to the front, in their order."""
        for entry in reversed(entries):
            self._queue(entry.slot).appendleft(entry)

    def first(self, slot: int | None = None) -> QueueEntry | None:
        """Return the next entry of a slot, or of the shared queue; it stays in the queue."""
        queue = self._shared if slot is None else self._by_slot.get(slot)
        while queue:
            if not queue[0].future.done():
                return queue[0]
            queue.popleft()  # cancelled by its caller
        return None

    def pop(self, slot: int | None = None) -> QueueEntry:
        return self._queue(slot).popleft()

    def release(self, slot: int) -> None:
        """Let any worker answer the entries of a slot that no longer exists."""
        for entry in reversed(self._by_slot.pop(slot, ())):
            entry.slot = None
            self._shared.appendleft(entry)

    def _queue(self, slot: int | None) -> deque[QueueEntry]:
        return self._shared if slot is None else self._by_slot.setdefault(slot, deque())

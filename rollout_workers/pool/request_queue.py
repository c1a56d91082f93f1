"""What the pool was asked and has not answered: in which order it is asked, how often, and how it ends.

Invariant: an entry's future ends exactly once, with one answer to each of its requests in their order; an answer that
came is kept, and only what is left is asked again.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from protocol.rollout import Answer, FailedQuestion, Failure, NoAnswer, RolloutRequest, Sampling


class QueueEntry:
    """Requests that one worker is asked together."""

    def __init__(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        slot: int | None = None,
        *,
        several: bool = False,
    ) -> None:
        self.sampling = sampling
        self.slot = slot
        """The only slot that may answer, for deterministic jobs; None for any."""
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """Of the list of answers where there are `several`, else of the only one."""
        self.task: asyncio.Task[None] | None = None
        """While it is with a worker."""
        self.attempts = 0
        """How often it came back without an answer."""
        self._requests, self._several = tuple(requests), several
        self._answers: dict[int, Answer] = {}

    @property
    def left(self) -> list[RolloutRequest]:
        """The requests without an answer."""
        return [request for i, request in enumerate(self._requests) if i not in self._answers]

    @property
    def sequences(self) -> int:
        """Sequences that an engine decodes for what is left."""
        return (len(self._requests) - len(self._answers)) * self.sampling.group_size

    def take(self, outcomes: Sequence[Answer | NoAnswer]) -> list[NoAnswer]:
        """Keep what a worker answered to `left`; returns what is no answer. The future ends with the last of them."""
        places = [i for i in range(len(self._requests)) if i not in self._answers]
        missing = []
        for place, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, NoAnswer):
                missing.append(outcome)
            else:
                self._answers[place] = outcome
        if not missing:
            self._end()
        return missing

    def give_up(self, worker: str, cause: str) -> int:
        """Record what is left as failed; how many that are."""
        failed = 0
        for i, request in enumerate(self._requests):
            if i not in self._answers:
                detail = f"asked {self.attempts} times; the last time: {cause}"
                self._answers[i] = FailedQuestion(request.question, Failure.RETRIES, detail, worker)
                failed += 1
        self._end()
        return failed

    def _end(self) -> None:
        if not self.future.done():
            answers = [self._answers[i] for i in range(len(self._requests))]
            self.future.set_result(answers if self._several else answers[0])


class RequestQueue:
    """Entries that wait for a worker, first come first served; what comes back goes to the front."""

    def __init__(self) -> None:
        self._any: deque[QueueEntry] = deque()
        self._of_slot: dict[int, deque[QueueEntry]] = {}

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[QueueEntry]:
        for line in (self._any, *self._of_slot.values()):
            yield from (entry for entry in line if not entry.future.done())

    @property
    def long(self) -> int:
        """At most so many that any worker may answer wait: those that nobody wants any more may be among them."""
        return len(self._any)

    def append(self, entry: QueueEntry) -> None:
        self._line(entry.slot).append(entry)

    def put_back(self, entries: Sequence[QueueEntry]) -> None:
        """Let entries that were asked already be the next ones, in their order."""
        for entry in reversed(entries):
            self._line(entry.slot).appendleft(entry)

    def first(self, slot: int | None = None) -> QueueEntry | None:
        """The next entry of a slot, or of those that any may answer; it stays in the queue."""
        line = self._any if slot is None else self._of_slot.get(slot)
        while line:
            if not line[0].future.done():
                return line[0]
            line.popleft()  # whoever asked does not want it any more
        return None

    def pop(self, slot: int | None = None) -> QueueEntry:
        return self._line(slot).popleft()

    def release(self, slot: int) -> None:
        """Let any worker answer what waits for a slot that is no more."""
        for entry in reversed(self._of_slot.pop(slot, ())):
            entry.slot = None
            self._any.appendleft(entry)

    def _line(self, slot: int | None) -> deque[QueueEntry]:
        return self._any if slot is None else self._of_slot.setdefault(slot, deque())

"""Hands what the pool is asked to workers, and takes it back from those that are lost.

Invariant: an entry is in the queue, with exactly one worker, or ended. What a worker is lost with goes back to the
front of the queue; an entry that came back `limits.attempts` times ends as failed, so none is asked for ever.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from protocol.rollout import Answer, Group, NoAnswer
from rollout_workers.errors import RolloutError, WorkerFailedError, WorkerLostError
from rollout_workers.limits import GRACE_SECONDS, RolloutLimits
from rollout_workers.pool.changes import Changes
from rollout_workers.pool.member import Member
from rollout_workers.pool.request_queue import QueueEntry, RequestQueue
from rollout_workers.pool.roster import Roster

OnEvent = Callable[..., None]
"""Called with the kind of an event and its details by name."""

_SPARE = 0.25
"""What a worker is given beyond what its engine decodes at once, so that the engine never waits for the pool. Not where
few requests are left: they would wait in one engine while another has nothing to do."""


class Dispatcher:
    """The queue of a pool, and the workers that are open for work."""

    def __init__(
        self,
        limits: RolloutLimits,
        max_concurrent: int,
        changes: Changes,
        *,
        on_event: OnEvent,
        lose: Callable[[Member, str], None],
        fail: Callable[[RolloutError], None],
    ) -> None:
        self.requeued = 0
        """Requests that were asked again."""
        self.failed = 0
        """Requests that ended as failed after all attempts."""
        self.queue = RequestQueue()
        self._limits = limits
        self._at_once, self._spare = max_concurrent, int(max_concurrent * _SPARE)
        self._roster = Roster()
        self._with_workers: set[QueueEntry] = set()
        self._failed_in_row = 0
        self._changes = changes
        self._event, self._lose, self._fail = on_event, lose, fail

    @property
    def in_flight(self) -> int:
        """Entries that are with a worker."""
        return len(self._with_workers)

    def ask(self, entry: QueueEntry) -> None:
        """Have an entry answered; its future ends once it is."""
        self.queue.append(entry)
        entry.future.add_done_callback(lambda future: self._unwanted(entry) if future.cancelled() else None)
        self.dispatch()
        if entry.slot is not None:
            for member in self._roster:
                if member.slot == entry.slot:
                    self._dispatch_slot(member)
                    break

    def open(self, member: Member) -> None:
        """Give a worker work from now on."""
        self._roster.put(member)
        self._dispatch_slot(member)
        self.dispatch()

    def close(self, member: Member) -> None:
        """Give a worker no more work; what it has it keeps."""
        self._roster.remove(member)

    def dispatch(self) -> None:
        """Hand out what waits, as far as there is room."""
        while (entry := self.queue.first()) is not None:
            member = self._roster.least_loaded()
            if member is None or not self._has_room(member, entry):
                return
            self._hand(member, self.queue.pop())

    def _dispatch_slot(self, member: Member) -> None:
        """Hand a worker what waits for its slot."""
        while member in self._roster and self.queue.first(member.slot) is not None:
            self._hand(member, self.queue.pop(member.slot))

    def take_back(self, member: Member, cause: str | None) -> int:
        """Put everything that a worker has back into the queue; how many entries. Without a cause it is no failure."""
        self.close(member)
        entries = list(member.entries)
        for entry in entries:
            member.done_with(entry)
            self._with_workers.discard(entry)
            if entry.task is not None and entry.task is not asyncio.current_task():
                entry.task.cancel()
            entry.task = None
            if cause is not None:
                entry.attempts += 1
        self._again(entries, member, cause or "")
        return len(entries)

    def end(self, error: RolloutError | None) -> None:
        """End every entry: with the error, or as cancelled."""
        for entry in [*self.queue, *self._with_workers]:
            if not entry.future.done():
                entry.future.set_exception(error) if error is not None else entry.future.cancel()
                # Whoever waits gets it; where nobody does any more, it is no error of the pool's.
                if error is not None:
                    entry.future.exception()

    def _has_room(self, member: Member, entry: QueueEntry) -> bool:
        if not member.load:
            return True  # it takes whatever is next, however large
        many_left = self.queue.long * entry.sequences > len(self._roster) * self._spare
        room = self._at_once + (self._spare if many_left else 0)
        return member.load + entry.sequences <= room

    def _hand(self, member: Member, entry: QueueEntry) -> None:
        member.given(entry)
        self._with_workers.add(entry)
        self._roster.put(member)
        entry.task = asyncio.get_running_loop().create_task(self._asked(member, entry))

    async def _asked(self, member: Member, entry: QueueEntry) -> None:
        """Wait for a worker's answer. Cancelled where it is taken back, or nobody wants it any more."""
        seconds = self._limits.request_seconds + GRACE_SECONDS
        left, handle = entry.left, member.handle_now
        try:
            async with asyncio.timeout(seconds):
                outcomes = await handle.generate(left, entry.sampling)
        except (TimeoutError, WorkerLostError) as error:
            if member.handle is handle:  # not replaced meanwhile
                self._lose(member, str(error) or f"gave no answer to a request within {seconds:.0f} s")
        except WorkerFailedError as error:
            self._answered(member, entry, [NoAnswer(str(error))] * len(left))
        except asyncio.CancelledError:
            self._done_with(member, entry)
            self.dispatch()
            raise
        except Exception as error:
            # Not a fault of a worker's: nothing would answer the entry any more.
            self._fail(RolloutError(member.name, f"cannot be asked: {type(error).__name__}: {error}"))
            raise
        else:
            if len(outcomes) != len(left):
                outcomes = [NoAnswer(f"{len(outcomes)} answers to {len(left)} requests")] * len(left)
            self._answered(member, entry, outcomes)

    def _answered(self, member: Member, entry: QueueEntry, outcomes: Sequence[Answer | NoAnswer]) -> None:
        if self._done_with(member, entry):
            missing = entry.take(outcomes)
            for outcome in outcomes:
                if not isinstance(outcome, NoAnswer):
                    member.count(outcome)
                if isinstance(outcome, Group):
                    self._failed_in_row = 0
            if missing:
                entry.attempts += 1
                cause = missing[0].cause
                self._event(
                    "rollout_attempt_failed",
                    worker=member.name,
                    question=entry.left[0].question.key,
                    requests=len(missing),
                    attempt=entry.attempts,
                    cause=cause,
                )
                self._again([entry], member, cause)
        self._dispatch_slot(member)
        self.dispatch()

    def _done_with(self, member: Member, entry: QueueEntry) -> bool:
        """Take an entry off its worker; False where it was taken back meanwhile, and may be with another."""
        if entry.task is not asyncio.current_task() or not member.done_with(entry):
            return False
        self._with_workers.discard(entry)
        entry.task = None
        if member in self._roster:
            self._roster.put(member)
        elif not member.entries:
            self._changes.notify()  # it may be drained now
        return True

    def _again(self, entries: Iterable[QueueEntry], member: Member, cause: str) -> None:
        """Ask entries again that have attempts left, and end the others."""
        back = []
        for entry in entries:
            if entry.future.done():
                continue
            if entry.attempts < self._limits.attempts:
                self.requeued += len(entry.left)
                back.append(entry)
                continue
            failed = entry.give_up(member.name, cause)
            self.failed += failed
            self._failed_in_row += failed
        self.queue.put_back(back)
        if self._failed_in_row >= self._limits.max_failed_in_row:
            self._fail(
                RolloutError(member.name, f"{self._failed_in_row} questions in a row failed; the last time: {cause}")
            )

    def _unwanted(self, entry: QueueEntry) -> None:
        """Nobody waits for an entry any more: the worker that has it need not go on."""
        if entry.task is not None:
            entry.task.cancel()

"""The base of the carriers between GPUs: all workers take an update in step, part by part, each part with a deadline.

A worker that is not ready in time is left out before any bytes move, since in a collective all others would wait for
it. A worker that fails in any part is left out of the rest: its weights are undefined from the first part on.

Invariant: nothing waits for a worker that has failed. The first failure in a collective ends it for all: what the
learner is blocked in is aborted, and workers that are still in it are given up, though they are not to blame.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any

from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import ElsewhereError, UpdateInterruptedError, WorkerLostError
from rollout_workers.limits import RolloutLimits
from rollout_workers.weight_sync.sync import WeightSource
from rollout_workers.worker.handle import WeightReceiver

Receivers = Mapping[str, WeightReceiver]
Failures = dict[str, WorkerLostError]
"""By the worker's name."""
Calls = Mapping[str, Coroutine[Any, Any, Any]]
"""By the worker's name, or `LEARNER`."""
LEARNER = "the learner"
GRACE_SECONDS = 2.0
"""Time for the others to end by themselves after the first failure in a collective."""
_POLL_SECONDS = 1.0
_Tasks = Mapping[str, "asyncio.Task[Any]"]


class InStepSync(ABC):
    """A carrier that needs the learner and all workers at the same time."""

    carrier: Carrier

    def __init__(self, learner: WeightSource, *, limits: RolloutLimits) -> None:
        """`limits` has the deadlines: `update_seconds` of a part that may wait for a worker's requests, `stall_seconds`
        of a piece and of a broadcast without progress, `lag_seconds` of a part that another worker is done with."""
        self._learner, self._limits = learner, limits

    def distribute(self, update: WeightUpdate, receivers: Receivers) -> dict[str, Awaitable[int]]:
        whole = asyncio.ensure_future(self._update(update, receivers))
        return {name: _outcome_of(whole, name) for name in receivers}

    async def deliver(self, update: WeightUpdate, receiver: WeightReceiver) -> int:
        """Deliver by the object store: creating a group for a single worker is not worthwhile."""
        if update.carrier is not Carrier.OBJECT_STORE:
            raise ElsewhereError(f"weight version {update.version} is in the learner's GPUs")
        return await receiver.update(update)

    @abstractmethod
    async def carry(self, update: WeightUpdate, receivers: Receivers) -> Failures:
        """Bring the bytes to workers that are ready; return the failures."""

    async def part(self, what: str, calls: Calls, seconds: float) -> tuple[dict[str, Any], Failures]:
        """Make calls that do not depend on one another, within `seconds`, and `lag_seconds` after the first success.

        Returns:
            Results, and the failures of those that raised or were late.
        """
        clock = asyncio.get_running_loop().time
        tasks, began = _started(calls), clock()
        pending, until = set(tasks.values()), began + seconds
        try:
            while pending and (left := until - clock()) > 0:
                done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if any(task.exception() is None for task in done):
                    until = min(until, clock() + self._limits.lag_seconds)
            await self._free_learner(tasks)
            return _outcomes(tasks, what, WorkerLostError(f"could not {what} within {clock() - began:.0f} s"))
        finally:
            _cancel(tasks)

    async def collective(self, what: str, calls: Calls, seconds: float) -> tuple[dict[str, Any], Failures]:
        """Make calls that end together. Give up those that are left at the first failure, or once the learner has sent
        nothing for `seconds`.

        Returns:
            Results and failures: UpdateInterruptedError for a call that was given up because a worker had failed, and
            for all but one of those that were given up because nothing was sent.
        """
        tasks = _started(calls)
        stalled = asyncio.ensure_future(self._stalled(seconds))
        pending = set(tasks.values())
        try:
            while pending and not stalled.done() and not _failed(tasks):
                await asyncio.wait([*pending, stalled], return_when=asyncio.FIRST_COMPLETED)
                pending = {task for task in pending if not task.done()}
            if pending:
                await asyncio.wait(pending, timeout=GRACE_SECONDS)
            failed = _failed(tasks)
            await self._free_learner(tasks)
            late = WorkerLostError(f"could not {what}: nothing was sent for {seconds:.0f} s")
            if guilty := [name for name in failed if name != LEARNER]:
                late = UpdateInterruptedError(f"could not {what}: {guilty[0]} failed")
            elif failed:
                late = WorkerLostError(f"could not {what}: {LEARNER} failed")
            results, failures = _outcomes(tasks, what, late)
            if not failed:
                # Any of them may be the cause: one counts as lost, so that a stall uses up one restart.
                for name in [name for name in failures if name != LEARNER][1:]:
                    failures[name] = UpdateInterruptedError(str(late))
            return results, failures
        finally:
            stalled.cancel()
            _cancel(tasks)

    async def _free_learner(self, tasks: _Tasks) -> None:
        """Abort the learner's call if it is still running: its next calls would wait for it."""
        call = tasks.get(LEARNER)
        if call is not None and not call.done():
            await self._learner.abort_transfer()
            await asyncio.wait([call], timeout=GRACE_SECONDS)

    async def _stalled(self, seconds: float) -> None:
        """Return once the learner has sent nothing for some seconds."""
        clock = asyncio.get_running_loop().time
        sent, until = -1, clock() + seconds
        while (left := until - clock()) > 0:
            # A learner that does not answer is one that does not send.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(left):
                    before, sent = sent, await self._learner.transferred()
                    if sent != before:
                        until = clock() + seconds
            await asyncio.sleep(min(_POLL_SECONDS, seconds / 4))

    async def _update(self, update: WeightUpdate, receivers: Receivers) -> dict[str, int | WorkerLostError]:
        seconds = self._limits.update_seconds
        begun: Calls = {name: receiver.begin_update() for name, receiver in receivers.items()}
        _, failures = await self.part("begin an update", begun, seconds)
        ready = {name: r for name, r in receivers.items() if name not in failures}
        failures |= await self.carry(update, ready) if ready else {}
        ending: Calls = {name: r.finish_update(update) for name, r in ready.items() if name not in failures}
        versions, failed = await self.part("finish it", ending, seconds)
        return versions | failures | failed


def _started(calls: Calls) -> _Tasks:
    return {name: asyncio.ensure_future(call) for name, call in calls.items()}


def _failed(tasks: _Tasks) -> list[str]:
    return [name for name, task in tasks.items() if task.done() and task.exception() is not None]


def _outcomes(tasks: _Tasks, what: str, late: WorkerLostError) -> tuple[dict[str, Any], Failures]:
    """Return the results and failures of calls; `late` is the failure of those that are still running."""
    results: dict[str, Any] = {}
    failures: Failures = {}
    for name, task in tasks.items():
        if not task.done():
            failures[name] = late
        elif (error := task.exception()) is not None:
            # Also an error of the learner, whose loss the training loop finds: the workers must not wait for it.
            failures[name] = WorkerLostError(f"could not {what}: {error}")
        else:
            results[name] = task.result()
    return results, failures


def _cancel(tasks: _Tasks) -> None:
    for task in tasks.values():
        task.cancel()


async def _outcome_of(whole: asyncio.Future[dict[str, int | WorkerLostError]], name: str) -> int:
    # Shielded: a caller that stops waiting for one worker must not cancel the others' update.
    outcome = (await asyncio.shield(whole))[name]
    if isinstance(outcome, WorkerLostError):
        raise outcome
    return outcome

"""Turns at the checks of jobs: a few at a time, over all users and for each of them.

Invariant: nobody waits longer than a bounded time, and one user never has all turns.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from audio_qa.errors import EarshotError


class AdmissionBusyError(EarshotError):
    """Too many jobs are being checked. Send the job again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Turns:
    """Turns for one event loop at a time."""

    def __init__(self, *, over_all: int, per_user: int, waiting_per_user: int, wait_seconds: float) -> None:
        """
        Args:
            waiting_per_user: requests of one user that may wait; another one is refused at once.
            wait_seconds: longest time to wait for a turn.
        """
        self._over_all, self._per_user = over_all, per_user
        self._waiting_per_user, self._wait_seconds = waiting_per_user, wait_seconds
        self._running, self._waiting = Counter[str](), Counter[str]()
        self._queue: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Hold a turn. Raises AdmissionBusyError."""
        await self._begin(user)
        try:
            yield
        finally:
            self._running[user] -= 1
            self._pass_on()

    async def _begin(self, user: str) -> None:
        if self._is_free(user) and not any(self._is_free(other) for other, _ in self._queue):
            self._running[user] += 1
            return
        if self._waiting[user] >= self._waiting_per_user:
            raise self._busy(f"{self._waiting[user]} of your jobs wait to be checked")
        entry = (user, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._waiting[user] += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await entry[1]
        except TimeoutError:
            if not _is_given(entry[1]):
                raise self._busy("other jobs are being checked") from None
        except asyncio.CancelledError:
            if _is_given(entry[1]):
                self._running[user] -= 1
                self._pass_on()
            raise
        finally:
            self._waiting[user] -= 1
            if entry in self._queue:
                self._queue.remove(entry)

    def _is_free(self, user: str) -> bool:
        return self._running.total() < self._over_all and self._running[user] < self._per_user

    def _pass_on(self) -> None:
        """Give free turns to those who wait, in their order."""
        for entry in tuple(self._queue):
            user, waiter = entry
            if self._is_free(user) and not waiter.done():
                self._running[user] += 1
                self._queue.remove(entry)
                waiter.set_result(None)
        self._running, self._waiting = +self._running, +self._waiting

    def _busy(self, why: str) -> AdmissionBusyError:
        seconds = max(1, round(self._wait_seconds / 2))
        return AdmissionBusyError(f"{why}; send the job again in {seconds} s", seconds)


def _is_given(waiter: asyncio.Future[None]) -> bool:
    return waiter.done() and not waiter.cancelled()

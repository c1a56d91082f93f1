"""A worker's end of the socket on which the learner announces new weights in this machine's memory.

Once connected, the worker takes every announced update by itself: a message through Ray takes as long as copying tens
of megabytes. Where the pool does not know that a worker has an update, it calls `take`, which waits for the announced
one and raises its error.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

from protocol.announcement import Announcement, PlacedTensor, Reply, connect, described, machine, receive, send_reply
from protocol.weights import WeightUpdate
from rollout_workers.errors import ElsewhereError, WeightsUnavailableError
from rollout_workers.limits import FETCH_SECONDS

Replace = Callable[[Announcement, str, Sequence[PlacedTensor]], Awaitable[None]]
"""Replaces a worker's weights by those in the file at a path, which is valid until this returns."""


class Subscription:
    """The announcements that a worker received and took, from one learner at a time. For one event loop."""

    def __init__(self, name: str, replace: Replace) -> None:
        self._name, self._replace = name, replace
        self._socket: socket.socket | None = None
        self._address = ""
        self._received, self._done = 0, 0
        """Numbers of the last announcement received, and of the last one taken or failed."""
        self._version = 0
        """Version of the last update taken."""
        self._failure: BaseException | None = None
        """Error of the last announcement that was handled."""
        self._work: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def take(self, update: WeightUpdate) -> None:
        """Wait until an announced update is taken, and connect to its learner first if necessary.

        Raises:
            ElsewhereError: the learner is not on this machine.
            WeightsUnavailableError: the learner is gone, silent, or has announced other weights by now.
            Exception: raised while the weights were replaced.
        """
        if self._socket is None or self._address != update.address:
            self._connect(update)
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                await self._wait_for(lambda: self._received >= update.announced)
        except TimeoutError as error:
            raise WeightsUnavailableError(
                f"the learner did not announce version {update.version} within {FETCH_SECONDS:.0f} s"
            ) from error
        await self._wait_for(lambda: self._done >= update.announced)
        if self._failure is not None:
            raise self._failure
        if self._version != update.version:
            raise WeightsUnavailableError(f"the learner has version {self._version} by now, not {update.version}")

    def close(self) -> None:
        """Disconnect from the learner."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            self._notify()

    def _connect(self, update: WeightUpdate) -> None:
        if update.machine != machine():
            raise ElsewhereError(f"weight version {update.version} is in the memory of another machine than the worker")
        self.close()
        try:
            connected = connect(update.address, self._name)
        except PermissionError as error:
            raise ElsewhereError(f"weight version {update.version} is another user's: {error}") from error
        except OSError as error:
            raise WeightsUnavailableError(f"the learner that announced the weights is gone: {error}") from error
        self._socket, self._address = connected, update.address
        self._received = self._done = 0
        asyncio.get_running_loop().add_reader(connected, self._receive, connected)

    def _receive(self, connected: socket.socket) -> None:
        try:
            received = receive(connected)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is None:
            self.close()
            return
        announcement, descriptor = received
        self._received = announcement.number
        self._notify()
        # A learner announces one at a time, but another learner's may arrive while this one is taken.
        self._work = asyncio.create_task(self._take(connected, announcement, descriptor, self._work))

    async def _take(
        self,
        connected: socket.socket,
        announcement: Announcement,
        descriptor: int,
        before: asyncio.Task[None] | None,
    ) -> None:
        failure: BaseException | None = None
        try:
            if before is not None and not before.done():
                await asyncio.wait([before])
            placed = described(descriptor, announcement)
            await self._replace(announcement, f"/proc/{os.getpid()}/fd/{descriptor}", placed)
        except Exception as error:
            # Raised by `take`, which the pool calls where it gets no reply.
            failure = error
        finally:
            os.close(descriptor)
        if self._socket is not connected:
            return  # from an earlier learner
        self._failure, self._done = failure, announcement.number
        if failure is None:
            self._version = announcement.version
        try:
            send_reply(connected, Reply(announcement.number, failure is None))
        except OSError:
            self.close()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises WeightsUnavailableError if the learner disconnects first."""
        while not condition():
            if self._socket is None:
                raise WeightsUnavailableError("the learner that announced the weights is gone")
            await self._changed.wait()

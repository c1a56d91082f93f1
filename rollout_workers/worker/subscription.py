"""A worker's end of the socket on which it hears of new weights in its machine's memory.

Once connected it takes whatever is announced, without being asked: a message through Ray takes as long as copying tens
of megabytes. The pool asks all the same where it does not know that a worker has an update (`take`), which waits for
what is under way and raises what went wrong with it.
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
"""Replaces a worker's weights by those in the file at a path, which is good until this returns."""


class Subscription:
    """What a worker has heard of and taken, of one learner at a time. For one event loop."""

    def __init__(self, name: str, replace: Replace) -> None:
        self._name, self._replace = name, replace
        self._socket: socket.socket | None = None
        self._address = ""
        self._heard, self._done = 0, 0
        """Numbers of announcements: the last that came, and the last that was taken or failed."""
        self._version = 0
        """Of the last that was taken."""
        self._failure: BaseException | None = None
        """Of the last that was done."""
        self._work: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def take(self, update: WeightUpdate) -> None:
        """Have an update that the learner announces.

        Raises:
            ElsewhereError: the learner is not on this machine.
            WeightsUnavailableError: it is gone, says nothing, or announces other weights by now.
            Exception: what replacing the weights raised.
        """
        if self._socket is None or self._address != update.address:
            self._connect(update)
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                await self._until(lambda: self._heard >= update.announced)
        except TimeoutError as error:
            raise WeightsUnavailableError(
                f"the learner did not announce version {update.version} within {FETCH_SECONDS:.0f} s"
            ) from error
        await self._until(lambda: self._done >= update.announced)
        if self._failure is not None:
            raise self._failure
        if self._version != update.version:
            raise WeightsUnavailableError(f"the learner has version {self._version} by now, not {update.version}")

    def close(self) -> None:
        """Hear of nothing any more."""
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
            raise WeightsUnavailableError(f"the learner is gone that announced weights: {error}") from error
        self._socket, self._address = connected, update.address
        self._heard = self._done = 0
        asyncio.get_running_loop().add_reader(connected, self._hear, connected)

    def _hear(self, connected: socket.socket) -> None:
        try:
            heard = receive(connected)
        except BlockingIOError:
            return
        except OSError:
            heard = None
        if heard is None:
            self.close()
            return
        announcement, descriptor = heard
        self._heard = announcement.number
        self._notify()
        # The learner tells of one at a time, but another learner's may come while this one's is taken.
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
            # Told to whoever asks for these weights, as the pool does where it hears nothing from here.
            failure = error
        finally:
            os.close(descriptor)
        if self._socket is not connected:
            return  # nobody waits for this any more
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

    async def _until(self, true: Callable[[], bool]) -> None:
        """Wait for something. Raises WeightsUnavailableError where the learner goes before."""
        while not true():
            if self._socket is None:
                raise WeightsUnavailableError("the learner is gone that announced weights")
            await self._changed.wait()

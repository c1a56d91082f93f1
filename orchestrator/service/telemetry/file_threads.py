"""Reads files in threads of their own: a mount that hangs delays those who read it, and nobody else.

Invariants: a caller waits at most its deadline; the files of one run occupy at most `per_key` threads, however many
requests read them; a read that has passed its deadline makes later reads of the same run fail at once, until it ends. A
file that is opened after its caller has left is closed.
"""

import asyncio
import contextvars
import errno
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from audio_qa.errors import EarshotError

Result = TypeVar("Result")

_STALE_ATTEMPTS = 3
"""Attempts to open a file when its handle is stale: another machine replaced it."""


class FilesUnavailableError(EarshotError):
    """Files that do not answer, or failed in a way that may pass; the message has no path."""


class DaemonThreads:
    """At most `most` threads, started when needed. They do not keep the process from ending while a file hangs."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._queue: SimpleQueue[tuple[Future[None], Callable[[], object]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._open = 0

    def start(self, work: Callable[[], None]) -> "Future[None]":
        """Run `work` in a thread, once one is free."""
        future: Future[None] = Future()
        with self._lock:
            self._open += 1
            if self._open > self._threads and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        context = contextvars.copy_context()
        self._queue.put((future, lambda: context.run(work)))
        return future

    def _run(self) -> None:
        while True:
            future, work = self._queue.get()
            if future.set_running_or_notify_cancel():
                try:
                    work()
                    future.set_result(None)
                except BaseException as error:
                    future.set_exception(error)
            with self._lock:
                self._open -= 1
            # A reference kept while the thread waits would keep the result in memory.
            del future, work


class FileThreads:
    """For use on one event loop."""

    def __init__(self, seconds: float = 15, threads: int = 32, per_key: int = 4) -> None:
        """
        Args:
            seconds: longest wait of a caller.
            per_key: threads that the files of one run may occupy.
        """
        self._seconds, self._per_key = seconds, per_key
        self._threads = DaemonThreads(threads, "files")
        self._slots: dict[Path, _Slot] = {}

    async def run(self, key: Path, function: Callable[..., Result], /, *args: object) -> Result:
        """Return what `function(*args)` reads. It is called again if a handle is stale.

        Args:
            key: what hangs together: a run directory, or the folder of a clip.

        Raises:
            FilesUnavailableError: the files do not answer within the deadline, or fail to be read.
        """
        try:
            return await self.within(key, _reopened, function, args)
        except OSError as error:
            raise FilesUnavailableError(f"the files cannot be read now ({error.strerror or error})") from error

    async def within(self, key: Path, function: Callable[..., Result], /, *args: object) -> Result:
        """Return `function(*args)`, called once in a thread; for what writes. Its errors are raised as they are.

        Raises:
            FilesUnavailableError: the files do not answer within the deadline. The call may still take effect.
        """
        slot = self._slots.setdefault(key, _Slot(self._per_key))
        if slot.oldest() > self._seconds:
            raise FilesUnavailableError("the files do not answer; the folder that holds them may be unreachable")
        slot.users += 1
        try:
            async with asyncio.timeout(self._seconds):
                await slot.room.acquire()
                return await self._in_thread(key, slot, function, args)
        except TimeoutError as error:
            detail = f"the files did not answer within {self._seconds:g} s"
            raise FilesUnavailableError(detail) from error
        finally:
            slot.users -= 1
            self._drop(key, slot)

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread without waiting for it."""
        self._threads.start(work)

    async def _in_thread(
        self, key: Path, slot: "_Slot", function: Callable[..., Result], args: tuple[object, ...]
    ) -> Result:
        found: list[Result] = []

        def work() -> None:
            token = object()
            slot.started[token] = time.monotonic()
            try:
                found.append(function(*args))
            except TimeoutError as error:
                # Not the deadline of the caller: the answer of a network file system.
                raise OSError(errno.EIO, "timed out") from error
            finally:
                del slot.started[token]

        future = self._threads.start(work)
        waiting = asyncio.wrap_future(future)
        slot.running += 1
        waiting.add_done_callback(slot.end)
        # The caller may have left long before.
        waiting.add_done_callback(lambda _: self._drop(key, slot))
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            # Ends it only if no thread has begun it.
            if not future.cancel():
                future.add_done_callback(lambda _: self._close_unused(found))
            raise
        return found[0]

    def _close_unused(self, found: Sequence[object]) -> None:
        for one in found:
            if callable(close := getattr(one, "close", None)):
                self.start(close)

    def _drop(self, key: Path, slot: "_Slot") -> None:
        if not slot.users and not slot.running and self._slots.get(key) is slot:
            del self._slots[key]


class _Slot:
    """The reads of one key."""

    def __init__(self, per_key: int) -> None:
        self.room = asyncio.Semaphore(per_key)
        self.users = self.running = 0
        self.started: dict[object, float] = {}

    def oldest(self) -> float:
        """Return for how many seconds the longest of the reads has been running."""
        return time.monotonic() - min(tuple(self.started.values()), default=time.monotonic())

    def end(self, waiting: "asyncio.Future[None]") -> None:
        """Make room for the next read."""
        self.running -= 1
        self.room.release()
        if not waiting.cancelled():
            # Nobody may be waiting for it any more.
            waiting.exception()


def _reopened(function: Callable[..., Result], args: tuple[object, ...]) -> Result:
    """Call a function that opens and reads files, again if a handle is stale."""
    for left in reversed(range(_STALE_ATTEMPTS)):
        try:
            return function(*args)
        except OSError as error:
            if error.errno != errno.ESTALE or not left:
                raise
    raise AssertionError

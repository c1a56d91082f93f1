"""Reads a little of many files in one thread, and leaves out those that hang until they answer.

Invariant: a file that hangs delays a caller by at most `patience`, once; it occupies one thread until it answers.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from orchestrator.service.telemetry.file_threads import DaemonThreads

Key = TypeVar("Key")
Value = TypeVar("Value")

_MOST_HANGING = 2
"""Files that may turn out to hang in one call; the rest is left out, too."""


class Sweep(Generic[Key, Value]):
    """For use on one event loop."""

    def __init__(self, read: Callable[[Key], Value], *, threads: int = 8, patience: float = 1.0) -> None:
        """
        Args:
            read: reads one file; an OSError leaves it out of the result.
            patience: seconds for one file.
        """
        self._read, self._patience = read, patience
        self._threads = DaemonThreads(threads, "sweep")
        self._hanging: set[Key] = set()

    async def of(self, keys: Iterable[Key]) -> dict[Key, Value]:
        """Return what was read, without the files that hang or cannot be read."""
        found: dict[Key, Value] = {}
        left: Sequence[Key] = [key for key in keys if key not in self._hanging]
        for _ in range(_MOST_HANGING):
            if not left:
                break
            work = _Work(self._read, left, self._hanging)
            future = self._threads.start(work.run)
            waiting = asyncio.wrap_future(future)
            if await self._done(waiting, work):
                return found | work.found
            found |= dict(work.found)
            if future.cancel():
                # Every thread waits for a file that hangs.
                return found
            work.cancelled = True
            self._exclude(left[work.position], waiting)
            left = left[work.position + 1 :]
        return found

    async def _done(self, waiting: "asyncio.Future[None]", work: "_Work[Key, Value]") -> bool:
        """Wait until the work is done; return False if it hangs at one file."""
        while (rest := work.began + self._patience - time.monotonic()) > 0:
            done, _ = await asyncio.wait([waiting], timeout=rest)
            if done:
                waiting.result()
                return True
        return False

    def _exclude(self, key: Key, waiting: "asyncio.Future[None]") -> None:
        def include(ended: "asyncio.Future[None]") -> None:
            self._hanging.discard(key)
            if not ended.cancelled():
                ended.exception()

        self._hanging.add(key)
        waiting.add_done_callback(include)


class _Work(Generic[Key, Value]):
    """One thread's part. Attributes are read by the event loop while it runs."""

    def __init__(self, read: Callable[[Key], Value], keys: Sequence[Key], hanging: set[Key]) -> None:
        self._read, self._keys, self._hanging = read, keys, hanging
        self.found: dict[Key, Value] = {}
        self.position = 0
        self.began = time.monotonic()
        self.cancelled = False

    def run(self) -> None:
        for position, key in enumerate(self._keys):
            if self.cancelled:
                return
            if key in self._hanging:
                continue
            self.position, self.began = position, time.monotonic()
            try:
                self.found[key] = self._read(key)
            except OSError:
                continue

"""When engines may take GPU memory that they share with the learner.

Invariant: while the gate is closed, no engine starts or takes weights: an engine that starts measures the memory that
is free, and must not measure while the learner takes or frees some.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum


class Reason(Enum):
    """Why the gate is closed. It is open when there is no reason left."""

    TURN = "turn"
    """It is the learner's turn."""
    PUBLISHING = "publishing"
    """The learner publishes weights for a worker that joins."""


class MemoryGate:
    """Open at first. For one event loop."""

    def __init__(self) -> None:
        self._reasons: set[Reason] = set()
        self._open, self._unused = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._unused.set()
        self._inside = 0

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        """Wait until the gate is open, and keep `close` waiting inside the block."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._unused.set()

    async def close(self, reason: Reason) -> None:
        """Let none in, and return once all are out."""
        self._reasons.add(reason)
        self._open.clear()
        await self._unused.wait()

    def open(self, reason: Reason) -> None:
        """Remove a reason, and let all in that wait if none is left."""
        self._reasons.discard(reason)
        if not self._reasons:
            self._open.set()

    def is_closed(self, reason: Reason) -> bool:
        """Return whether the gate is closed for a reason, others aside."""
        return reason in self._reasons

"""Separate generation and weight updates, so that a group is generated with one version of the weights."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class EngineGate:
    """Lets many generate at once, or one update. A waiting update blocks new generation."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._generating = 0
        self._updating = False

    @property
    def closed(self) -> bool:
        """True while an update is running or waiting."""
        return self._updating

    @asynccontextmanager
    async def generating(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._updating)
            self._generating += 1
        try:
            yield
        finally:
            async with self._changed:
                self._generating -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def updating(self) -> AsyncIterator[None]:
        """Enter once all running generation has ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._updating)
            self._updating = True
            try:
                await self._changed.wait_for(lambda: self._generating == 0)
            except BaseException:
                self._release()
                raise
        try:
            yield
        finally:
            async with self._changed:
                self._release()

    def _release(self) -> None:
        self._updating = False
        self._changed.notify_all()

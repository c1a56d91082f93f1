"""The turns of engines and learner on GPUs that they share.

Invariant: what one half takes, the other has freed. While the learner works the engines sleep and none starts; before
they wake or start, the learner has given its unused memory back. A turn that ends with an error stays the learner's:
its ranks may still have memory, and the ranks that replace them begin with the engines asleep.

A job whose halves have GPUs of their own, or none, takes no turns.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol


class EngineHalf(Protocol):
    """The engines' half: `rollout_workers.pool.engine_memory`."""

    asleep: bool

    @property
    def may_start(self) -> bool: ...

    async def hold_starts(self) -> None: ...

    def allow_starts(self) -> None: ...

    async def sleep(self) -> None: ...

    async def wake(self) -> None: ...


class LearnerHalf(Protocol):
    """The learner's half: `learner.group`."""

    async def give_memory_back(self) -> int:
        """Give the GPU memory that holds nothing back to the driver; return the number of bytes."""


class SharedGpus:
    """Call one of its methods before the half that it is named after works; a turn that it has already stays."""

    def __init__(self, engines: EngineHalf | None, learner: LearnerHalf) -> None:
        """`engines` is None for halves that do not share GPUs."""
        self._engines, self._learner = engines, learner

    async def learning(self) -> None:
        """Give the learner its turn: to start a phase, to learn, or to write a checkpoint."""
        if self._engines is not None and not self._engines.asleep:
            await self._engines.sleep()

    async def generating(self) -> None:
        """Give the engines their turn: to generate, and to start."""
        if self._engines is None or (self._engines.may_start and not self._engines.asleep):
            return
        await self._learner.give_memory_back()
        if self._engines.asleep:
            await self._engines.wake()
        self._engines.allow_starts()

    @asynccontextmanager
    async def updating(self) -> AsyncIterator[None]:
        """Have engines awake and learner idle inside the block, in which weights go from one to the other.

        No engine starts inside, since the learner needs memory for what it sends. Afterwards it is the engines' turn.
        """
        if self._engines is not None:
            await self._engines.hold_starts()
            if self._engines.asleep:
                await self._learner.give_memory_back()
                await self._engines.wake()
        yield
        await self.generating()

"""Lets coroutines wait until something holds, of state that changes by plain assignments."""

import asyncio
from collections.abc import Callable


class Changes:
    """Whoever changes the state calls `notify`; whoever waits for it gives a condition to look at then."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def notify(self) -> None:
        if self._next is not None:
            following, self._next = self._next, None
            following.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return as soon as `condition` holds; what it raises is raised here."""
        while not condition():
            if self._next is None:
                self._next = asyncio.get_running_loop().create_future()
            # Shielded: one that stops waiting must not cancel what others wait for.
            await asyncio.shield(self._next)

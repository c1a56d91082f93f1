"""A condition variable for state that changes by plain assignments on one event loop."""

import asyncio
from collections.abc import Callable


class StateChange:
    """Code that changes the state calls `notify`; coroutines that depend on it wait for a condition."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def notify(self) -> None:
        """Have every waiting coroutine check its condition again."""
        if self._next is not None:
            following, self._next = self._next, None
            following.set_result(None)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return as soon as `condition` holds. An exception raised by `condition` is raised here."""
        while not condition():
            if self._next is None:
                self._next = asyncio.get_running_loop().create_future()
            # Shielded: a waiter that is cancelled must not cancel what the others wait for.
            await asyncio.shield(self._next)

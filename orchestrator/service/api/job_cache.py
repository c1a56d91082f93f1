"""Jobs that were asked for a moment ago: many who watch one job ask the store once.

Invariant: what is answered was so no longer ago than `_SECONDS`.
"""

import asyncio
import time
from collections import OrderedDict

from orchestrator.service.store.records import JobRecord, Transition
from orchestrator.service.store.store import Store

_SECONDS = 0.25
_MOST = 5000

Known = tuple[JobRecord, tuple[Transition, ...]]


class JobCache:
    """For use on one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, tuple[float, asyncio.Task[Known]]] = OrderedDict()

    async def get(self, job_id: str) -> Known:
        """A job and its history. Raises JobNotFoundError, StoreUnavailableError."""
        now = time.monotonic()
        kept = self._kept.get(job_id)
        if kept is None or now - kept[0] > _SECONDS:
            kept = self._kept[job_id] = (now, asyncio.create_task(self._read(job_id)))
            self._kept.move_to_end(job_id)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        # Whoever gives up waiting takes nothing from the others.
        return await asyncio.shield(kept[1])

    def forget(self, job_id: str) -> None:
        """Ask the store next time."""
        self._kept.pop(job_id, None)

    async def _read(self, job_id: str) -> Known:
        try:
            return await self._store.get(job_id), await self._store.history(job_id)
        except BaseException:
            self.forget(job_id)
            raise

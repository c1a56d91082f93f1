"""A cache of jobs read a moment ago: many clients that watch one job cause one query of the store.

Invariant: an answer is at most `_SECONDS` old.
"""

import asyncio
import time
from collections import OrderedDict

from orchestrator.service.store.records import JobRecord, Transition
from orchestrator.service.store.store import Store

_SECONDS = 0.25
_MAX_JOBS = 5000

JobWithHistory = tuple[JobRecord, tuple[Transition, ...]]


class JobCache:
    """The cache of one app, for use on one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cached: OrderedDict[str, tuple[float, asyncio.Task[JobWithHistory]]] = OrderedDict()

    async def get(self, job_id: str) -> JobWithHistory:
        """Return a job and its history. Raises JobNotFoundError, StoreUnavailableError."""
        now = time.monotonic()
        cached = self._cached.get(job_id)
        if cached is None or now - cached[0] > _SECONDS:
            cached = self._cached[job_id] = (now, asyncio.create_task(self._read(job_id)))
            self._cached.move_to_end(job_id)
            while len(self._cached) > _MAX_JOBS:
                self._cached.popitem(last=False)
        # A caller that is cancelled must not cancel the query for the others.
        return await asyncio.shield(cached[1])

    def forget(self, job_id: str) -> None:
        """Read the job from the store next time."""
        self._cached.pop(job_id, None)

    async def _read(self, job_id: str) -> JobWithHistory:
        try:
            return await self._store.get(job_id), await self._store.history(job_id)
        except BaseException:
            self.forget(job_id)
            raise

"""The persistent state of the service: jobs and their history, tokens, the audit log.

Every method is one transaction, and raises StoreUnavailableError while the database cannot be reached.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay, wait_fixed

from orchestrator.service.store.access_store import AccessStore
from orchestrator.service.store.database import Database, DatabaseUrlError
from orchestrator.service.store.database_check import DatabaseUnusableError, StoreUnavailableError
from orchestrator.service.store.job_changes import JobChanges
from orchestrator.service.store.job_rows import (
    CursorError,
    IdempotencyError,
    JobInUseError,
    JobNotFoundError,
    QueueFullError,
    StaleStateError,
    TransitionError,
    UsedJobGoneError,
)
from orchestrator.service.store.job_store import JobStore
from orchestrator.service.store.queue_store import QueueCaps, QueueStore
from orchestrator.service.store.request_store import RequestInProgressError, RequestStore

__all__ = [
    "CursorError",
    "DatabaseUnusableError",
    "DatabaseUrlError",
    "IdempotencyError",
    "JobInUseError",
    "JobNotFoundError",
    "QueueCaps",
    "QueueFullError",
    "RequestInProgressError",
    "StaleStateError",
    "Store",
    "StoreUnavailableError",
    "TransitionError",
    "UsedJobGoneError",
    "opened",
]

_log = logging.getLogger(__name__)


class Store(JobStore, QueueStore, JobChanges, RequestStore, AccessStore):
    """The store in one database, for use on one event loop. Any number of processes may share the database."""

    def __init__(self, url: str, runs: Path, caps: QueueCaps | None = None) -> None:
        """
        Args:
            url: `sqlite:///PATH` or `postgresql://…`.
            runs: folder for the run directories of new jobs.
            caps: bounds of the queue; none by default.

        Raises:
            DatabaseUrlError: another kind of database.
        """
        super().__init__(Database(url), runs, caps or QueueCaps())
        RequestStore.__init__(self)

    @property
    def runs(self) -> Path:
        """Folder with the run directories."""
        return self._runs

    async def __aenter__(self) -> Self:
        """Migrate the tables to the current version."""
        try:
            await self._database.open()
        except BaseException:
            await self._database.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._database.close()


@asynccontextmanager
async def opened(store: Store, patience: float) -> AsyncIterator[None]:
    """Open the store once its database answers, within some seconds.

    Raises StoreUnavailableError; DatabaseUnusableError, which waiting would not mend, at once.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_fixed(1),
        stop=stop_after_delay(patience),
        before_sleep=_log_unavailable,
        reraise=True,
    )
    await retrying(store.__aenter__)
    try:
        yield
    finally:
        await store.__aexit__()


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, StoreUnavailableError) and not isinstance(error, DatabaseUnusableError)


def _log_unavailable(state: RetryCallState) -> None:
    if state.outcome is not None:
        _log.warning("waiting for the database: %s", state.outcome.exception())

"""The persistent state of the service: jobs and their history, tokens, the audit log.

Every method is one transaction, and raises StoreUnavailableError while the database cannot be reached.
"""

from pathlib import Path
from typing import Self

from orchestrator.service.store.access_store import AccessStore
from orchestrator.service.store.database import Database, DatabaseUrlError, StoreUnavailableError
from orchestrator.service.store.job_rows import (
    CursorError,
    IdempotencyError,
    JobNotFoundError,
    StaleStateError,
    TransitionError,
)
from orchestrator.service.store.job_store import JobStore

__all__ = [
    "CursorError",
    "DatabaseUrlError",
    "IdempotencyError",
    "JobNotFoundError",
    "StaleStateError",
    "Store",
    "StoreUnavailableError",
    "TransitionError",
]


class Store(JobStore, AccessStore):
    """The store in one database, for use on one event loop. Any number of processes may share the database."""

    def __init__(self, url: str, runs: Path) -> None:
        """
        Args:
            url: `sqlite:///PATH` or `postgresql://…`.
            runs: folder for the run directories of new jobs.

        Raises:
            DatabaseUrlError: another kind of database.
        """
        super().__init__(Database(url), runs)

    async def __aenter__(self) -> Self:
        """Migrate the tables to the current version."""
        await self._database.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._database.close()

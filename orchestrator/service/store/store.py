"""What the service remembers: jobs and their history, tokens, the audit log. All of it outlives the service.

Every method is one transaction. All raise StoreUnavailableError while the database cannot be reached.
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
    """On one database; for use on one event loop. Any number of processes may use a database."""

    def __init__(self, url: str, runs: Path) -> None:
        """
        Args:
            url: `sqlite:///PATH` or `postgresql://…`.
            runs: the folder that holds the run directories of new jobs.

        Raises:
            DatabaseUrlError: for any other database.
        """
        super().__init__(Database(url), runs)

    async def __aenter__(self) -> Self:
        """Bring the tables up to date."""
        await self._database.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._database.close()

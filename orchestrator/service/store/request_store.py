"""Requests that were done, by their idempotency key: a repeated request must have no second effect.

Invariant: a row says what was done. Where the effect is in the database, the row is written in its transaction.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import delete, exists, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from audio_qa.errors import EarshotError, shown
from orchestrator.service.store.database import Database
from orchestrator.service.store.job_rows import IdempotencyError
from orchestrator.service.store.tables import jobs, requests

KEY_DAYS = 7
"""Days for which a key is kept. That of a submission is kept for as long as its job, too."""
MOST_KEYS = 10_000
"""Keys that are kept for each user: the latest ones."""

_PURGE_SECONDS = 3600.0
_IN_PROGRESS = "a request with this idempotency key is being carried out; send it again"


class RequestInProgressError(EarshotError):
    """Another request with the same key is being carried out."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An idempotency key, and the request that it stands for."""

    owner: str
    key: str
    request_hash: str
    """Hash of method, path, query and body."""


@dataclass(frozen=True, slots=True)
class DoneRequest:
    """The effect of a request."""

    status: int
    """Status of its response."""
    job_id: str
    command: dict[str, Any] | None = None
    """The command that it sent to the job: id, command, count."""


class RequestStore:
    """Requests that were done; see `Store`."""

    _database: Database
    _purged = 0.0
    """Monotonic time of the last removal of old keys."""

    def __init__(self) -> None:
        self._in_progress: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def one_at_a_time(self, request: RequestKey, seconds: float) -> AsyncIterator[None]:
        """Keep other requests with this key waiting. Raises RequestInProgressError if another one takes longer."""
        lock = self._in_progress.setdefault((request.owner, request.key), asyncio.Lock())
        try:
            await asyncio.wait_for(lock.acquire(), seconds)
        except TimeoutError as error:
            raise RequestInProgressError(_IN_PROGRESS) from error
        try:
            yield
        finally:
            lock.release()

    async def find_request(self, request: RequestKey) -> DoneRequest | None:
        """Return what the request did earlier. Raises IdempotencyError if its key was used for another request."""
        query = select(requests).where(requests.c.owner == request.owner, requests.c.key == request.key)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return None
        if row.request_hash != request.request_hash:
            raise IdempotencyError(
                f"the idempotency key {shown(request.key)} was used for another request; use a new key"
            )
        return DoneRequest(row.status, row.job_id, row.command)

    async def remember_request(self, request: RequestKey, done: DoneRequest) -> None:
        """Record what a request did, unless that was done with its effect. Once an hour, remove old keys.

        Raises RequestInProgressError.
        """
        same = select(requests.c.seq).where(requests.c.owner == request.owner, requests.c.key == request.key)
        async with self._database.write() as connection:
            if (await connection.execute(same)).first() is None:
                await remember(connection, request, done)
            if time.monotonic() - self._purged > _PURGE_SECONDS:
                await _remove_old(connection, datetime.now(UTC) - timedelta(days=KEY_DAYS))
                self._purged = time.monotonic()


async def remember(connection: AsyncConnection, request: RequestKey, done: DoneRequest) -> None:
    """Record what a request does, in the transaction that does it.

    Raises RequestInProgressError if its key was used at the same time; nothing may be done then.
    """
    try:
        await connection.execute(
            insert(requests).values(
                owner=request.owner,
                key=request.key,
                request_hash=request.request_hash,
                created_at=datetime.now(UTC),
                status=done.status,
                job_id=done.job_id,
                command=done.command,
            )
        )
    except IntegrityError as error:
        raise RequestInProgressError(_IN_PROGRESS) from error
    own = requests.c.owner == request.owner
    last = select(requests.c.seq).where(own).order_by(requests.c.seq.desc()).limit(1).offset(MOST_KEYS)
    await connection.execute(delete(requests).where(own, requests.c.seq <= last.scalar_subquery()))


async def _remove_old(connection: AsyncConnection, before: datetime) -> None:
    kept = exists().where(jobs.c.owner == requests.c.owner, jobs.c.idempotency_key == requests.c.key)
    await connection.execute(delete(requests).where(requests.c.created_at < before, ~kept))

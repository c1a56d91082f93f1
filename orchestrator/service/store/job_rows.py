"""Rows of the jobs table, read and changed inside a transaction of the caller's."""

import base64
import binascii
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.schemas.job_state import ALLOWED, ENDED, JobState
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.tables import jobs, transitions

_CHANGEABLE = frozenset(
    {
        "attempt",
        "cause",
        "restarts",
        "submission_id",
        "started_at",
        "not_before",
        "cancel_requested_at",
        "preempt_requested_at",
        "gpus",
    }
)


class JobNotFoundError(LookupError):
    """There is no job of this id."""


class StaleStateError(RuntimeError):
    """The job is no longer in the state that the caller expects; nothing changed."""

    def __init__(self, job: JobRecord, expected: Collection[JobState]) -> None:
        super().__init__(f"job {job.id} is {job.state}, not {' or '.join(sorted(expected))}")
        self.job = job


class TransitionError(ValueError):
    """A change of state that no job makes."""


class IdempotencyError(ValueError):
    """The idempotency key was used for another job."""


class CursorError(ValueError):
    """A cursor that this service did not give."""


async def change(
    connection: AsyncConnection,
    job: JobRecord,
    expected: Collection[JobState],
    to: JobState,
    cause: str | None,
    fields: Mapping[str, Any],
) -> JobRecord:
    """Change the state of a job whose row is locked, and note it. Raises StaleStateError, TransitionError."""
    if job.state not in expected:
        raise StaleStateError(job, expected)
    if to not in ALLOWED[job.state]:
        raise TransitionError(f"no job goes from {job.state} to {to}")
    now = datetime.now(UTC)
    values = {**checked(fields), "state": to.value, "cause": text(cause), "updated_at": now}
    if to in ENDED:
        values["finished_at"] = now
    await connection.execute(update(jobs).where(jobs.c.id == job.id).values(**values))
    await note(connection, job.id, job.state, to, now, cause)
    return await one(connection, job.id)


async def note(
    connection: AsyncConnection, job_id: str, before: JobState | None, after: JobState, at: datetime, cause: str | None
) -> None:
    """Add a line to a job's history."""
    await connection.execute(
        insert(transitions).values(
            job_id=job_id,
            from_state=None if before is None else before.value,
            to_state=after.value,
            at=at,
            cause=text(cause),
        )
    )


async def one(connection: AsyncConnection, job_id: str, *, lock: bool = False) -> JobRecord:
    """The job of this id, kept from other writers if `lock`. Raises JobNotFoundError."""
    query: Select[Any] = select(jobs).where(jobs.c.id == job_id)
    # What no id looks like is not asked for: PostgreSQL refuses some strings.
    row = None
    if job_id.isascii() and job_id.isalnum():
        row = (await connection.execute(query.with_for_update() if lock else query)).first()
    if row is None:
        raise JobNotFoundError(f"there is no job {job_id!r}")
    return job_of(row)


async def of_key(connection: AsyncConnection, owner: str, key: str | None, body_hash: str) -> JobRecord | None:
    """The job that its owner submitted with this key. Raises IdempotencyError if that was another job."""
    if key is None:
        return None
    query = select(jobs).where(jobs.c.owner == owner, jobs.c.idempotency_key == key)
    row = (await connection.execute(query)).first()
    if row is None:
        return None
    if row.body_hash != body_hash:
        raise IdempotencyError(f"the idempotency key {key!r} was used for another job, {row.id}; use a new key")
    return job_of(row)


def checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that a caller may set. Raises TypeError for others."""
    unknown = fields.keys() - _CHANGEABLE
    if unknown:
        raise TypeError(f"a job's {sorted(unknown)} cannot be changed")
    return dict(fields)


def text(value: str | None) -> str | None:
    """What every database takes as text."""
    # PostgreSQL has no place for a NUL, and log lines may hold one.
    return None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def job_of(row: Row[Any]) -> JobRecord:
    """A row as the rest of the service sees it."""
    return JobRecord(**{name: getattr(row, name) for name in _COLUMNS}, state=JobState(row.state))


_COLUMNS = tuple(name for name in JobRecord.__slots__ if name != "state")


def to_cursor(seq: int) -> str:
    """The cursor of the page behind a job."""
    return base64.urlsafe_b64encode(f"j{seq}".encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> int:
    """The opposite of `to_cursor`. Raises CursorError."""
    try:
        plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        if not (plain[:1] == "j" and plain[1:].isdigit() and len(plain) <= 10):
            raise ValueError(plain)
        return int(plain[1:])
    except (ValueError, binascii.Error) as error:
        raise CursorError("the cursor is not one that this service gave") from error

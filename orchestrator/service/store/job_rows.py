"""Read and change rows of the jobs table, inside the caller's transaction."""

import base64
import binascii
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row, Select, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from audio_qa.errors import EarshotError, InputError, shown
from orchestrator.job.spec import JobSpec
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


class JobNotFoundError(InputError):
    """There is no job with this id."""


class StaleStateError(EarshotError):
    """The job is no longer in the state that the caller expected; nothing was changed."""

    def __init__(self, job: JobRecord, expected: Collection[JobState]) -> None:
        super().__init__(f"job {job.id} is {job.state}, not {' or '.join(sorted(expected))}")
        self.job = job


class TransitionError(EarshotError):
    """A change of state that is not allowed."""


class QueueFullError(EarshotError):
    """As many jobs are queued as may be, of this owner or of all; nothing was queued. The message says which."""


class UsedJobGoneError(InputError):
    """A job names the files of another one that was removed, or is being removed."""


class JobInUseError(EarshotError):
    """A job cannot be removed: jobs that have not ended need its files."""

    def __init__(self, message: str, users: Sequence[str]) -> None:
        super().__init__(message)
        self.users = tuple(users)
        """Their ids."""


class IdempotencyError(InputError):
    """The idempotency key was already used for another job."""


class CursorError(InputError):
    """A cursor that is not from this service."""


async def change_state(
    connection: AsyncConnection,
    job: JobRecord,
    expected: Collection[JobState],
    to: JobState,
    cause: str | None,
    fields: Mapping[str, Any],
) -> JobRecord:
    """Change the state of a job whose row is locked, and record it. Raises StaleStateError, TransitionError."""
    if job.removal_at is not None:
        raise JobNotFoundError(f"job {job.id} is being removed")
    if job.state not in expected:
        raise StaleStateError(job, expected)
    if to not in ALLOWED[job.state]:
        raise TransitionError(f"a job cannot change from {job.state} to {to}")
    now = datetime.now(UTC)
    values = {**checked(fields), "state": to.value, "cause": storable_text(cause), "updated_at": now}
    values["finished_at"] = now if to in ENDED else None
    await connection.execute(update(jobs).where(jobs.c.id == job.id).values(**values))
    await record_transition(connection, job.id, job.state, to, now, cause)
    return await job_with_id(connection, job.id)


async def record_transition(
    connection: AsyncConnection, job_id: str, before: JobState | None, after: JobState, at: datetime, cause: str | None
) -> None:
    """Add a row to a job's history."""
    await connection.execute(
        insert(transitions).values(
            job_id=job_id,
            from_state=None if before is None else before.value,
            to_state=after.value,
            at=at,
            cause=storable_text(cause),
        )
    )


async def job_with_id(connection: AsyncConnection, job_id: str, *, lock: bool = False) -> JobRecord:
    """Return the job with this id, locked against other writers if `lock`. Raises JobNotFoundError."""
    query: Select[Any] = select(jobs).where(jobs.c.id == job_id)
    # Strings that cannot be an id are not queried: PostgreSQL refuses some of them.
    row = None
    if job_id.isascii() and job_id.isalnum():
        row = (await connection.execute(query.with_for_update() if lock else query)).first()
    if row is None:
        raise JobNotFoundError(f"there is no job {shown(job_id)}")
    return record_of(row)


async def job_with_key(
    connection: AsyncConnection, owner: str, key: str | None, body_hash: str, spec: Mapping[str, Any]
) -> JobRecord | None:
    """Return the job that its owner submitted with this key. Raises IdempotencyError if that was another job.

    Args:
        body_hash: digest of the request.
        spec: the request's job, with every default written out.
    """
    if key is None:
        return None
    query = select(jobs).where(jobs.c.owner == owner, jobs.c.idempotency_key == key)
    row = (await connection.execute(query)).first()
    if row is None:
        return None
    if row.body_hash != body_hash and not _means(row.spec, spec):
        raise IdempotencyError(f"the idempotency key {shown(key)} was used for another job, {row.id}; use a new key")
    return record_of(row)


def _means(stored: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Return whether a stored job is the given one, and only lacks keys that an earlier version did not have."""
    try:
        current = JobSpec.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        return False
    return current == spec and stored != spec


def checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields if a caller may set all of them. Raises TypeError otherwise."""
    unknown = fields.keys() - _CHANGEABLE
    if unknown:
        raise TypeError(f"a job's {sorted(unknown)} cannot be changed")
    return dict(fields)


def storable_text(value: str | None) -> str | None:
    """Return text that every database can store."""
    # PostgreSQL cannot store NUL, and log lines may contain it.
    return None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def record_of(row: Row[Any]) -> JobRecord:
    """Return the record of a row."""
    plain = {name: getattr(row, name) for name in _COLUMNS}
    return JobRecord(**plain, state=JobState(row.state), uses=tuple(row.uses or ()))


_COLUMNS = tuple(name for name in JobRecord.__slots__ if name not in ("state", "uses"))


def to_cursor(seq: int, kind: str = "j") -> str:
    """Return the cursor of the page after a row; `kind` is one letter for the list: j for jobs."""
    return base64.urlsafe_b64encode(f"{kind}{seq}".encode()).decode().rstrip("=")


def from_cursor(cursor: str, kind: str = "j") -> int:
    """Invert `to_cursor`. Raises CursorError."""
    try:
        plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        if not (plain[:1] == kind and plain[1:].isdigit() and len(plain) <= 10):
            raise ValueError(plain)
        return int(plain[1:])
    except (ValueError, binascii.Error) as error:
        raise CursorError("the cursor is not from this service") from error

"""Access control as the store holds it: tokens, roles, and entries of the audit log."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Permissions of a token. A submitter may do what a viewer may, and an admin what both may."""

    VIEWER = "viewer"
    """See jobs."""
    SUBMITTER = "submitter"
    """Submit jobs, and change one's own jobs."""
    ADMIN = "admin"
    """See and change every job."""
    MONITOR = "monitor"
    """Read the metrics of the service and of all jobs, for Prometheus; nothing else."""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token without its secret; the store has only the hash. Times are aware datetimes in UTC."""

    id: str
    name: str
    owner: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An entry of the audit log: an action that was done or refused."""

    at: datetime
    actor: str
    action: str
    """`job.submit`, `job.cancel`, `token.create`, …"""
    target: str
    """Id of a job or token; empty without one."""
    outcome: str
    """`ok`, or the reason for the refusal."""
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A page of the audit log, newest first."""

    items: tuple[AuditRecord, ...]
    next_cursor: str | None
    """Cursor of the next page; None at the end."""

"""Who may do what: tokens as the store holds them, roles, and the audit log's entries."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a token allows; each role includes those before it."""

    VIEWER = "viewer"
    """See jobs."""
    SUBMITTER = "submitter"
    """Submit jobs, and change one's own."""
    ADMIN = "admin"
    """Change every job, and manage tokens."""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token without its secret, of which the store holds the hash only. Times are aware datetimes in UTC."""

    id: str
    name: str
    owner: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Somebody did something, or was refused."""

    at: datetime
    actor: str
    action: str
    """`job.submit`, `job.cancel`, `token.create`, …"""
    target: str
    """A job's or token's id; empty where there is none."""
    outcome: str
    """`ok`, or why it was refused."""
    detail: dict[str, Any]

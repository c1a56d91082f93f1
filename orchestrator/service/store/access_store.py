"""The part of the store for tokens and the audit log."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from orchestrator.service.store.access import AuditPage, AuditRecord, Role, TokenRecord
from orchestrator.service.store.database import Database
from orchestrator.service.store.job_rows import from_cursor, to_cursor
from orchestrator.service.store.tables import audit, tokens


class AccessStore:
    """Tokens and the audit log; see `Store`."""

    _database: Database

    async def create_token(
        self, *, name: str, owner: str, role: Role, token_hash: str, expires_at: datetime | None = None
    ) -> TokenRecord:
        """Store a token by the hash of its secret. Raises ValueError if there is one with that hash."""
        record = TokenRecord(uuid.uuid4().hex[:16], name, owner, role, datetime.now(UTC), expires_at, None)
        async with self._database.write() as connection:
            taken = await connection.execute(select(tokens.c.id).where(tokens.c.hash == token_hash))
            if taken.first() is not None:
                raise ValueError("a token with this secret exists")
            await connection.execute(
                insert(tokens).values(
                    id=record.id,
                    name=name,
                    owner=owner,
                    role=role.value,
                    hash=token_hash,
                    created_at=record.created_at,
                    expires_at=expires_at,
                )
            )
        return record

    async def list_tokens(self, *, include_revoked: bool = False) -> list[TokenRecord]:
        """Return tokens in order of creation."""
        query = select(tokens).order_by(tokens.c.seq)
        if not include_revoked:
            query = query.where(tokens.c.revoked_at.is_(None))
        async with self._database.read() as connection:
            return [_token(row) for row in await connection.execute(query)]

    async def revoke_token(self, token_id: str) -> bool:
        """Revoke a token; return False if there is none that is not revoked."""
        async with self._database.write() as connection:
            result = await connection.execute(
                update(tokens)
                .where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
                .values(revoked_at=datetime.now(UTC))
            )
        return bool(result.rowcount)

    async def find_token(self, token_hash: str) -> TokenRecord | None:
        """Return the token with this hash; None if there is none, or it is revoked or expired."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(tokens).where(tokens.c.hash == token_hash))).first()
        token = None if row is None else _token(row)
        if token is None or token.revoked_at is not None:
            return None
        return None if token.expires_at is not None and token.expires_at <= datetime.now(UTC) else token

    async def audit(
        self, actor: str, action: str, *, target: str = "", outcome: str = "ok", detail: Mapping[str, Any] | None = None
    ) -> None:
        """Add an entry to the audit log. `detail` has JSON values and must not contain secrets."""
        async with self._database.write() as connection:
            await connection.execute(
                insert(audit).values(
                    at=datetime.now(UTC),
                    actor=actor[:128],
                    action=action[:64],
                    target=target[:128],
                    outcome=outcome,
                    detail=dict(detail or {}),
                )
            )

    async def audit_log(self, *, limit: int = 100) -> list[AuditRecord]:
        """Return the latest entries, newest first."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(audit).order_by(audit.c.seq.desc()).limit(limit))
            return [AuditRecord(r.at, r.actor, r.action, r.target, r.outcome, r.detail) for r in rows]

    async def audit_page(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        since: datetime | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """Return a page of entries, newest first. Raises CursorError."""
        query = select(audit).order_by(audit.c.seq.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(audit.c.seq < from_cursor(cursor, "a"))
        for column, value in ((audit.c.actor, actor), (audit.c.action, action), (audit.c.target, target)):
            if value is not None:
                query = query.where(column == value)
        if since is not None:
            query = query.where(audit.c.at >= since)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        items = tuple(AuditRecord(r.at, r.actor, r.action, r.target, r.outcome, r.detail) for r in rows[:limit])
        return AuditPage(items, to_cursor(rows[limit - 1].seq, "a") if len(rows) > limit else None)

    async def remove_audit_before(self, before: datetime) -> int:
        """Remove older entries; return how many."""
        async with self._database.write() as connection:
            return (await connection.execute(delete(audit).where(audit.c.at < before))).rowcount


def _token(row: Row[Any]) -> TokenRecord:
    return TokenRecord(row.id, row.name, row.owner, Role(row.role), row.created_at, row.expires_at, row.revoked_at)

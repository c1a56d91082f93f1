"""Idempotency keys of every request, the jobs whose files a job uses, removals, and indexes for long queues."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """From version 0001."""
    op.create_table(
        "requests",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("command", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_requests")),
        sa.UniqueConstraint("owner", "key", name=op.f("uq_requests_owner_key")),
    )
    op.create_index(op.f("ix_requests_created_at"), "requests", ["created_at"], unique=False)
    op.create_index(op.f("ix_requests_owner_seq"), "requests", ["owner", "seq"], unique=False)
    op.create_index(op.f("ix_audit_actor_seq"), "audit", ["actor", "seq"], unique=False)
    op.create_index(op.f("ix_audit_target_seq"), "audit", ["target", "seq"], unique=False)
    op.add_column("jobs", sa.Column("uses", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("removal_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(op.f("ix_jobs_owner_state_seq"), "jobs", ["owner", "state", "seq"], unique=False)
    op.create_index(
        op.f("ix_jobs_queue"), "jobs", ["state", sa.text("priority DESC"), "seq", "owner", "gpus"], unique=False
    )


def downgrade() -> None:
    """To version 0001."""
    op.drop_index(op.f("ix_jobs_queue"), "jobs")
    op.drop_index(op.f("ix_jobs_owner_state_seq"), "jobs")
    with op.batch_alter_table("jobs") as table:
        table.drop_column("removal_at")
        table.drop_column("uses")
    op.drop_index(op.f("ix_audit_target_seq"), "audit")
    op.drop_index(op.f("ix_audit_actor_seq"), "audit")
    op.drop_table("requests")

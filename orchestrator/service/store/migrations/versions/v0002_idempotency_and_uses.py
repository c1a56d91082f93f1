"""Idempotency keys of every request, the jobs whose files a job uses, and an index for the queue."""

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
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_requests")),
        sa.UniqueConstraint("owner", "key", name=op.f("uq_requests_owner_key")),
    )
    op.create_index(op.f("ix_requests_created_at"), "requests", ["created_at"], unique=False)
    op.add_column("jobs", sa.Column("uses", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("retry_of", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_jobs_state_priority_seq"), "jobs", ["state", "priority", "seq"], unique=False)


def downgrade() -> None:
    """To version 0001."""
    op.drop_index(op.f("ix_jobs_state_priority_seq"), "jobs")
    with op.batch_alter_table("jobs") as table:
        table.drop_column("retry_of")
        table.drop_column("uses")
    op.drop_table("requests")

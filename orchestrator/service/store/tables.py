"""The tables of the service's database. A change here needs a migration: see `migrations/versions`."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class Moment(TypeDecorator[datetime]):
    """An aware datetime in UTC on every database: SQLite keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC, for SQLite without the time zone. Raises ValueError for a naive datetime."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Restore the time zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

jobs = Table(
    "jobs",
    metadata,
    # The order of submission. Scheduling and pages use it, because two jobs may have the same time.
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("name", String(64), nullable=False),
    Column("owner", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("gpus", Float, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("attempt", Integer, nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("max_restarts", Integer, nullable=False),
    Column("cause", Text),
    Column("run_dir", Text, nullable=False),
    Column("submission_id", String(128)),
    Column("not_before", Moment),
    Column("cancel_requested_at", Moment),
    Column("preempt_requested_at", Moment),
    Column("idempotency_key", String(255)),
    Column("body_hash", String(64), nullable=False),
    # Ids of the jobs whose run directories this one names, as a list; NULL for jobs of version 0.1.
    Column("uses", JSON(none_as_null=True)),
    # When the removal of the job and its files began; no other job may name it from then on.
    Column("removal_at", Moment),
    UniqueConstraint("owner", "idempotency_key"),
    Index(None, "state", "seq"),
    Index(None, "owner", "seq"),
    Index(None, "owner", "state", "seq"),
    Index(None, "name", "seq"),
    # The number of a removed job must not be reused: pages depend on it.
    sqlite_autoincrement=True,
)

# The queue in its order, with all that decides whether a job may start: long queues are read without their rows.
Index("ix_jobs_queue", jobs.c.state, jobs.c.priority.desc(), jobs.c.seq, jobs.c.owner, jobs.c.gpus)

transitions = Table(
    "transitions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("from_state", String(16)),
    Column("to_state", String(16), nullable=False),
    Column("at", Moment, nullable=False),
    Column("cause", Text),
)

tokens = Table(
    "tokens",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("name", String(128), nullable=False),
    Column("owner", String(128), nullable=False),
    Column("role", String(16), nullable=False),
    Column("hash", String(128), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at", Moment, nullable=False, index=True),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(128), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Index(None, "actor", "seq"),
    Index(None, "target", "seq"),
)

# Requests that were done, by their idempotency key.
requests = Table(
    "requests",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("owner", String(128), nullable=False),
    Column("key", String(255), nullable=False),
    # Of method, path, query and body.
    Column("request_hash", String(64), nullable=False),
    Column("created_at", Moment, nullable=False, index=True),
    # What the request did: the status of its response, its job, and the command that it sent to the job, if any.
    Column("status", Integer, nullable=False),
    Column("job_id", String(64), nullable=False),
    Column("command", JSON(none_as_null=True)),
    UniqueConstraint("owner", "key"),
    Index(None, "owner", "seq"),
)

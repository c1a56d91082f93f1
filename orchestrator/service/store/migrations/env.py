"""Run by Alembic for `orchestrator.service.store.database.migrate`, which brings the connection."""

from alembic import context

from orchestrator.service.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot change a column in place: Alembic then copies the table.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()

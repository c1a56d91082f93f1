"""Alembic's environment; the versions lie in `versions`, one file a change of `orchestrator.service.store.tables`."""

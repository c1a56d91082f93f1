"""The service's store on both databases."""

from pathlib import Path

import pytest
from support.postgres import Postgres, postgres

from orchestrator.service.store.database import sqlite_url

__all__ = ["database_url", "postgres"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of either kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "earshot.db")
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()

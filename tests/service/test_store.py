"""The store, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from service.conftest import small_spec

from orchestrator.service.jobs import JobState
from orchestrator.service.store import Store

Result = TypeVar("Result")
On = Callable[[Callable[[Store], Awaitable[object]]], object]


@pytest.fixture
def on_store(database_url: str, tmp_path: Path) -> On:
    """Runs a test's coroutine on an open store."""

    def run(body: Callable[[Store], Awaitable[object]]) -> object:
        async def main() -> object:
            async with Store(database_url, tmp_path / "runs") as store:
                return await body(store)

        return asyncio.run(main())

    return run


def test_a_submitted_job_is_found_again(on_store: On, tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        job, created = await store.submit(small_spec(name="first"), owner="ann", priority=2)
        assert created
        assert job.state is JobState.QUEUED
        assert job == await store.get(job.id)
        assert (job.name, job.owner, job.priority, job.attempt) == ("first", "ann", 2, 0)
        assert job.run_dir == str(tmp_path / "runs" / job.id)
        assert job.created_at.tzinfo is not None
        assert [t.to_state for t in await store.history(job.id)] == [JobState.QUEUED]

    on_store(body)

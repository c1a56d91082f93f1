"""Old jobs are removed, and only those."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.postgres import small_spec

from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.store import JobNotFoundError, Store
from orchestrator.service.supervision.retention import remove_job, remove_old_jobs


def test_old_jobs_are_removed_with_their_run_directories(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    async def body() -> None:
        async with Store(sqlite_url(tmp_path / "earshot.db"), runs) as store:
            old, waiting = [(await store.submit(small_spec(), owner="ann"))[0] for _ in range(2)]
            for job in (old, waiting):
                (Path(job.run_dir) / "checkpoints").mkdir(parents=True)
            await store.request_cancel(old.id, "x")
            assert await remove_old_jobs(store, runs, datetime.now(UTC) - timedelta(days=1)) == 0
            assert await remove_old_jobs(store, runs, datetime.now(UTC) + timedelta(seconds=1)) == 1
            with pytest.raises(JobNotFoundError):
                await store.get(old.id)
            assert not Path(old.run_dir).exists()
            assert (await store.get(waiting.id)).state is JobState.QUEUED
            assert Path(waiting.run_dir).exists()

    asyncio.run(body())


def test_a_run_that_another_removal_has_renamed_meanwhile_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, rename = tmp_path / "runs", Path.rename

    def rename_twice(path: Path, target: Path) -> Path:
        rename(path, target)
        return rename(path, target)

    async def body() -> None:
        async with Store(sqlite_url(tmp_path / "earshot.db"), runs) as store:
            job, _ = await store.submit(small_spec(), owner="ann")
            (Path(job.run_dir) / "checkpoints").mkdir(parents=True)
            await remove_job(store, runs, await store.request_cancel(job.id, "x"))
            assert [path for path in runs.rglob("*") if path.name == job.id] == []
            with pytest.raises(JobNotFoundError):
                await store.get(job.id)

    monkeypatch.setattr(Path, "rename", rename_twice)
    asyncio.run(body())

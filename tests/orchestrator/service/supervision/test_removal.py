"""Jobs are removed one by one: what cannot be removed, or is needed, is kept and delays nothing."""

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from support.postgres import small_spec

from orchestrator.schemas.job_state import JobState
from orchestrator.service.backup.backup import back_up
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import (
    JobInUseError,
    JobNotFoundError,
    StaleStateError,
    Store,
    UsedJobGoneError,
)
from orchestrator.service.store.tables import jobs
from orchestrator.service.supervision.retention import RemovalError, remove_job, remove_old_jobs

Body = Callable[[Store], Awaitable[None]]


@pytest.fixture
def on_store(database_url: str, tmp_path: Path) -> Callable[[Body], None]:
    """Return a function that runs a coroutine on an open store."""

    def run(body: Body) -> None:
        async def main() -> None:
            async with Store(database_url, tmp_path / "runs") as store:
                await body(store)

        asyncio.run(main())

    return run


async def ended(store: Store, **more) -> JobRecord:
    """Return a job that has ended, with files."""
    job, _ = await store.submit(small_spec(**more), owner="ann")
    await store.request_cancel(job.id, "x")
    folder = Path(job.run_dir)
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "checkpoints" / "step-1" / "weights").write_text("1")
    (folder / "events.jsonl").write_text("{}\n")
    return await store.get(job.id)


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=1)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return a set of names; a file or folder of such a name cannot be removed, as one that is immutable."""
    names: set[str] = set()
    unlink, rmdir, rename = os.unlink, os.rmdir, Path.rename

    def refusing(real, what):
        def act(path, *more, **options):
            name = Path(path).name
            if name in names or f"{what}:{name}" in names:
                raise OSError(errno.ESTALE if what == "rename" else errno.EPERM, "refused", str(path))
            return real(path, *more, **options)

        return act

    monkeypatch.setattr(os, "unlink", refusing(unlink, "unlink"))
    monkeypatch.setattr(os, "rmdir", refusing(rmdir, "rmdir"))
    monkeypatch.setattr(Path, "rename", refusing(rename, "rename"))
    return names


def test_a_folder_that_cannot_be_removed_stops_no_other(on_store, tmp_path, stuck, caplog) -> None:
    runs = tmp_path / "runs"

    async def body(store: Store) -> None:
        first, second, third, fourth = [await ended(store) for _ in range(4)]
        (Path(second.run_dir) / "immutable").write_text("")
        stuck.update({"immutable", f"rename:{third.id}"})
        with caplog.at_level(logging.ERROR):
            assert await asyncio.wait_for(remove_old_jobs(store, runs, soon()), 20) == 2
        for job in (first, fourth):
            with pytest.raises(JobNotFoundError):
                await store.get(job.id)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 2 and "refused" in said[0] and "immutable" in said[0] and third.id in said[1]
        # Nobody meets half a run under its name, and what could not be moved is whole.
        assert not Path(second.run_dir).exists()
        assert (Path(third.run_dir) / "checkpoints" / "step-1" / "weights").exists()
        assert (await store.get(second.id)).state is JobState.CANCELLED
        stuck.clear()
        assert await remove_old_jobs(store, runs, soon()) == 2
        assert [path for path in runs.rglob("*") if path.name != ".removed"] == []

    on_store(body)


def test_a_full_page_that_stays_is_passed(on_store, tmp_path, stuck) -> None:
    async def body(store: Store) -> None:
        made = [await ended(store) for _ in range(5)]
        stuck.update({f"rename:{job.id}" for job in made[:3]})
        real = store.ended_before
        store.ended_before = lambda time, after=None: real(time, after, limit=2)
        assert await asyncio.wait_for(remove_old_jobs(store, tmp_path / "runs", soon()), 20) == 2

    on_store(body)


def test_an_immutable_file(tmp_path: Path) -> None:
    """The same with the file system itself, where it has the attribute."""

    async def body() -> None:
        async with Store(f"sqlite:///{tmp_path / 'earshot.db'}", tmp_path / "runs") as store:
            job, other = await ended(store), await ended(store)
            file = Path(job.run_dir) / "events.jsonl"
            if os.spawnlp(os.P_WAIT, "chattr", "chattr", "+i", str(file)):
                pytest.skip("this file system has no immutable files, or this user may not make them")
            try:
                assert await remove_old_jobs(store, tmp_path / "runs", soon()) == 1
                assert (await store.get(job.id)).id == job.id
            finally:
                os.spawnlp(os.P_WAIT, "chattr", "chattr", "-R", "-i", str(tmp_path / "runs"))
            with pytest.raises(JobNotFoundError):
                await store.get(other.id)

    asyncio.run(body())


def test_the_id_of_a_job_in_the_text_of_another_keeps_nothing(on_store, tmp_path) -> None:
    """Else anybody could have a job of others kept for as long as an own job waits."""

    async def body(store: Store) -> None:
        job = await ended(store)
        await store.submit(small_spec(name=job.id), owner="eve")
        await remove_job(store, tmp_path / "runs", job)
        with pytest.raises(JobNotFoundError):
            await store.get(job.id)

    on_store(body)


def test_files_that_a_waiting_job_names_are_kept(on_store, tmp_path) -> None:
    runs = tmp_path / "runs"

    async def body(store: Store) -> None:
        named, older, free = [await ended(store) for _ in range(3)]
        user, _ = await store.submit(small_spec(), owner="ann", uses={named.id})
        path = f"{older.run_dir}/checkpoints/step-1"
        before, _ = await store.submit(small_spec(model={"path": path}), owner="ann")
        async with store._database.write() as connection:  # as version 0.1 stored it
            await connection.execute(update(jobs).where(jobs.c.id == before.id).values(uses=None))
        assert await remove_old_jobs(store, runs, soon()) == 1
        assert not Path(free.run_dir).exists()
        for job, who in ((named, user), (older, before)):
            assert (Path(job.run_dir) / "events.jsonl").exists()
            with pytest.raises(JobInUseError, match=who.id):
                await remove_job(store, runs, job)
        for job in (user, before):
            await store.request_cancel(job.id, "x")
        assert await remove_old_jobs(store, runs, soon()) == 4

    on_store(body)


def test_nothing_begins_with_a_job_that_is_being_removed(on_store, tmp_path) -> None:
    async def body(store: Store) -> None:
        job = await ended(store)
        await store.begin_removal(job)
        with pytest.raises(UsedJobGoneError, match=job.id):
            await store.submit(small_spec(), owner="ann", uses={job.id})
        with pytest.raises(JobNotFoundError, match="is being removed"):
            await store.retry(job.id, "again")
        await remove_job(store, tmp_path / "runs", job)
        with pytest.raises(UsedJobGoneError, match=job.id):
            await store.submit(small_spec(), owner="ann", uses={job.id})
        again = await ended(store)
        await store.retry(again.id, "again")
        with pytest.raises(StaleStateError):
            await remove_job(store, tmp_path / "runs", again)
        assert Path(again.run_dir).exists()

    on_store(body)


def test_links_are_not_followed(on_store, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("mine")

    async def body(store: Store) -> None:
        inside, link = await ended(store), await ended(store)
        (Path(inside.run_dir) / "link").symlink_to(other)
        shutil.rmtree(link.run_dir)
        Path(link.run_dir).symlink_to(other)
        assert await remove_old_jobs(store, tmp_path / "runs", soon()) == 2
        assert (other / "file").read_text() == "mine"
        assert not Path(link.run_dir).is_symlink()
        elsewhere = await ended(store)
        async with store._database.write() as connection:
            await connection.execute(update(jobs).where(jobs.c.id == elsewhere.id).values(run_dir=str(other)))
        assert await remove_old_jobs(store, tmp_path / "runs", soon()) == 1
        assert (other / "file").exists()

    on_store(body)


def test_a_backup_leaves_out_what_is_being_removed(tmp_path: Path, stuck) -> None:
    async def body() -> None:
        async with Store(f"sqlite:///{tmp_path / 'data' / 'earshot.db'}", tmp_path / "data" / "runs") as store:
            job = await ended(store)
            stuck.add("weights")
            with pytest.raises(RemovalError, match="weights"):
                await remove_job(store, tmp_path / "data" / "runs", job)

    asyncio.run(body())
    assert (tmp_path / "data" / "runs" / ".removed").is_dir()
    done = back_up(tmp_path / "data", None, tmp_path / "backup")
    assert (done.runs, done.jobs) == (0, 1)

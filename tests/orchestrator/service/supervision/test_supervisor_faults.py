"""The supervisor under failures of drivers, clusters, databases and folders."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import update
from support.fake_driver import FolderRunner
from support.postgres import Postgres
from support.supervised import Service, runner, serve

from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.store import Store, StoreUnavailableError
from orchestrator.service.store.tables import jobs
from orchestrator.service.supervision.limits import Limits
from orchestrator.service.supervision.runner import Driver, DriverState

__all__ = ["runner", "serve"]


def test_a_killed_driver_is_replaced(serve, runner) -> None:
    async def body(service: Service) -> None:
        job = await service.submit(max_restarts=1)
        await service.until(job, JobState.RUNNING)
        os.kill(runner.pid(f"{job}-1"), signal.SIGKILL)
        record = await service.until(job, JobState.RECOVERING)
        assert record.cause == "the driver was killed by signal 9; restart 1 of 1"
        record = await service.until(job, JobState.RUNNING)
        assert (record.attempt, record.restarts, record.submission_id) == (2, 1, f"{job}-2")
        os.kill(runner.pid(f"{job}-2"), signal.SIGKILL)
        record = await service.until(job, JobState.FAILED)
        assert record.cause.startswith("the driver was killed by signal 9; all 1 restarts are used up")
        assert f"driver {job}-2 at work" in record.cause
        assert await service.states(job) == ["queued", "starting", "running", "recovering", "running", "failed"]

    serve(body)


def test_a_driver_that_starts_between_two_queries_is_not_taken_for_lost(serve, runner, monkeypatch) -> None:
    async def body(service: Service) -> None:
        status, late = runner.status, []

        async def status_too_early(submission_id: str) -> Driver:
            seen = await status(submission_id)
            if not late and seen.state is DriverState.RUNNING:
                late.append(submission_id)
                events = Path((await service.store.get(job)).run_dir) / "events.jsonl"
                while not (events.exists() and "attempt" in events.read_text()):
                    await asyncio.sleep(0.01)
                return Driver(DriverState.UNKNOWN)
            return seen

        monkeypatch.setattr(runner, "status", status_too_early)
        job = await service.submit()
        record = await service.until(job, JobState.RUNNING)
        assert late == [f"{job}-1"]
        assert (record.attempt, record.restarts, runner.started()) == (1, 0, late)
        runner.finish()
        await service.until(job, JobState.SUCCEEDED)

    serve(body)


def test_a_job_that_failed_by_itself_is_not_retried(serve, runner) -> None:
    async def body(service: Service) -> None:
        job = await service.submit()
        runner.finish(1)
        record = await service.until(job, JobState.FAILED)
        assert record.cause.startswith("LearnerError: it does not learn\n")
        assert runner.started() == [f"{job}-1"]

    serve(body)


def test_a_cluster_lost_under_a_driver_is_not_the_jobs_fault(serve, runner) -> None:
    async def body(service: Service) -> None:
        job = await service.submit()
        runner.finish(75, job)
        await service.until(job, JobState.RECOVERING)
        runner.finish(0, job)
        assert (await service.until(job, JobState.SUCCEEDED)).restarts == 1

    serve(body)


def test_an_unavailable_cluster_is_waited_for(serve, runner) -> None:
    async def body(service: Service) -> None:
        running, waiting = await service.submit(), await service.submit()
        await service.until(running, JobState.RUNNING)
        runner.away = True
        loop = asyncio.ensure_future(service.loop.run())
        await asyncio.sleep(1.2)
        assert not loop.done()
        assert (await service.store.get(running)).state is JobState.RUNNING
        runner.away = False
        runner.finish()
        deadline = time.monotonic() + 20
        while (await service.store.get(waiting)).state is not JobState.SUCCEEDED:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        loop.cancel()
        assert runner.started() == sorted([f"{running}-1", f"{waiting}-1"])

    serve(body, Limits(running=1))


def test_a_damaged_run_directory_does_not_affect_other_jobs(serve, runner) -> None:
    async def body(service: Service) -> None:
        bad, good = await service.submit(), await service.submit()
        record = await service.until(bad, JobState.RUNNING)
        with (Path(record.run_dir) / "events.jsonl").open("a") as file:
            file.write("no event\n")
        await service.until(good, JobState.RUNNING)
        runner.finish()
        await service.until(good, JobState.SUCCEEDED)
        assert (await service.until(bad, JobState.SUCCEEDED)).restarts == 0

    serve(body)


def test_a_job_fails_if_its_run_directory_cannot_be_created(serve, runner, tmp_path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")

    async def body(service: Service) -> None:
        record = await service.until(await service.submit(), JobState.FAILED)
        assert "cannot be created" in record.cause

    serve(body)


def test_a_job_that_an_earlier_version_queued_fails_with_the_reason(serve, runner) -> None:
    async def body(service: Service) -> None:
        job = await service.submit()
        queued = (await service.store.get(job)).spec
        # An engine on one of two GPUs that are its own.
        earlier = queued | {"rollout": {**queued["rollout"], "gpus": 2.0}}
        async with service.store._database.write() as connection:
            await connection.execute(update(jobs).where(jobs.c.id == job).values(spec=earlier))
        record = await service.until(job, JobState.FAILED)
        assert "this version of Earshot cannot run it" in record.cause
        assert "an engine uses tensor_parallel GPUs (1), and gpus is 2" in record.cause

    serve(body)


def test_an_unavailable_database_loses_nothing(postgres: Postgres, runner, tmp_path) -> None:
    async def main() -> None:
        async with Store(postgres.new_database(), tmp_path / "runs") as store:
            service = Service(store, runner, Limits(running=2))
            jobs = [await service.submit() for _ in range(3)]
            await service.until(jobs[0], JobState.RUNNING)
            await service.until(jobs[1], JobState.RUNNING)
            loop = asyncio.ensure_future(service.loop.run())
            await asyncio.to_thread(postgres.stop)
            try:
                runner.finish()
                await asyncio.sleep(3)
                assert not loop.done()
                with pytest.raises(StoreUnavailableError):
                    await store.get(jobs[0])
            finally:
                await asyncio.to_thread(postgres.start)
            deadline = time.monotonic() + 30
            while (await store.counts())[JobState.SUCCEEDED] < 3:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            loop.cancel()
            assert runner.started() == sorted(f"{job}-1" for job in jobs)

    asyncio.run(main())


def test_two_loops_on_one_store_start_nothing_twice(tmp_path: Path, runner: FolderRunner) -> None:
    """Only one service uses a data directory; even if two shared a database, no driver would start twice."""
    url = sqlite_url(tmp_path / "earshot.db")

    async def main() -> None:
        async with Store(url, tmp_path / "runs") as one, Store(url, tmp_path / "runs") as other:
            first, second = Service(one, runner), Service(other, runner)
            jobs = [await first.submit() for _ in range(6)]

            async def both(*wanted: JobState) -> None:
                async def reached() -> bool:
                    return [(await one.get(job)).state for job in jobs] == list(wanted)

                await asyncio.gather(first.do_rounds(reached, 60), second.do_rounds(reached, 60))

            await both(*[JobState.RUNNING] * 3, *[JobState.QUEUED] * 3)
            assert runner.started() == sorted(f"{job}-1" for job in jobs[:3])
            runner.finish()
            await both(*[JobState.SUCCEEDED] * 6)
            assert runner.started() == sorted(f"{job}-1" for job in jobs)
            for job in jobs:
                record, states = await one.get(job), await first.states(job)
                assert (record.attempt, record.restarts) == (1, 0)
                assert len(states) == len({*states}), states

    asyncio.run(main())

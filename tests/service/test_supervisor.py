"""The service's loop, on a real store and stand-in drivers that are real processes."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from service.conftest import Postgres, small_spec
from service.stand_in import FolderRunner

from orchestrator.commands import CommandKind, send
from orchestrator.run_directory import RunDirectory
from orchestrator.service.database import sqlite_url
from orchestrator.service.demand import gpus_of, scaled
from orchestrator.service.endings import back_off_seconds
from orchestrator.service.jobs import JobState
from orchestrator.service.limits import Capacity, Limits, NeverFitsError, check_fits
from orchestrator.service.runner import Driver, DriverState
from orchestrator.service.store import Store, StoreUnavailableError
from orchestrator.service.supervisor import Supervisor
from orchestrator.spec_file import read_spec


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[FolderRunner]:
    runner = FolderRunner(tmp_path / "cluster", gpus=4)
    yield runner
    runner.kill_all()


class Service:
    """A store and a loop over it, which turns while something is waited for."""

    def __init__(self, store: Store, runner: FolderRunner, limits: Limits | None = None, **options) -> None:
        self.store, self.runner = store, runner
        self.loop = Supervisor(store, runner, limits or Limits(running=3), **options)

    async def submit(self, **options):
        return (await self.store.submit(small_spec(), owner="ann", **options))[0].id

    async def until(self, job: str, *states: JobState):
        """Turn the loop until the job is in one of the states."""

        async def there() -> bool:
            return (await self.store.get(job)).state in states

        await self.turn(there)
        return await self.store.get(job)

    async def turn(self, there: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not await there():
            assert time.monotonic() < deadline, "nothing happened in time"
            await self.loop.round()
            await asyncio.sleep(0.02)

    async def states(self, job: str) -> list[str]:
        return [str(transition.to_state) for transition in await self.store.history(job)]


@pytest.fixture
def serve(tmp_path: Path, runner: FolderRunner):
    """Runs a test's coroutine on a service."""

    def run(body, limits: Limits | None = None, **options) -> None:
        async def main() -> None:
            async with Store(sqlite_url(tmp_path / "earshot.db"), tmp_path / "runs") as store:
                await body(Service(store, runner, limits, **options))

        asyncio.run(main())

    return run


def test_a_job_runs_to_its_end(serve, runner) -> None:
    async def body(service: Service) -> None:
        job = await service.submit()
        record = await service.until(job, JobState.RUNNING)
        assert (record.attempt, record.submission_id) == (1, f"{job}-1")
        assert "address: auto" in (Path(record.run_dir) / "job.yaml").read_text()
        send(RunDirectory(record.run_dir), CommandKind.PAUSE)
        await service.until(job, JobState.PAUSED)
        send(RunDirectory(record.run_dir), CommandKind.RESUME)
        await service.until(job, JobState.RUNNING)
        runner.finish()
        record = await service.until(job, JobState.SUCCEEDED)
        assert (record.restarts, record.cause) == (0, None)
        assert record.created_at <= record.started_at <= record.finished_at
        assert await service.states(job) == ["queued", "starting", "running", "paused", "running", "succeeded"]

    serve(body)


def test_a_driver_that_begins_while_it_is_looked_for_is_not_taken_for_gone(serve, runner, monkeypatch) -> None:
    async def body(service: Service) -> None:
        look, late = runner.look, []

        async def look_too_early(submission_id: str) -> Driver:
            seen = await look(submission_id)
            if not late and seen.state is DriverState.RUNNING:
                late.append(submission_id)
                events = Path((await service.store.get(job)).run_dir) / "events.jsonl"
                while not (events.exists() and "attempt" in events.read_text()):
                    await asyncio.sleep(0.01)
                return Driver(DriverState.UNKNOWN)
            return seen

        monkeypatch.setattr(runner, "look", look_too_early)
        job = await service.submit()
        record = await service.until(job, JobState.RUNNING)
        assert late == [f"{job}-1"]
        assert (record.attempt, record.restarts, runner.started()) == (1, 0, late)
        runner.finish()
        await service.until(job, JobState.SUCCEEDED)

    serve(body)


def test_the_services_storage_is_that_of_its_jobs(serve, runner) -> None:
    async def body(service: Service) -> None:
        record = await service.until(await service.submit(), JobState.RUNNING)
        assert read_spec(Path(record.run_dir) / "job.yaml").storage == "s3://bucket/runs"
        runner.finish()

    serve(body, storage="s3://bucket/runs")


def test_no_more_run_than_may(serve, runner) -> None:
    async def body(service: Service) -> None:
        jobs = [await service.submit(priority=i % 2) for i in range(5)]
        await service.until(jobs[3], JobState.RUNNING)
        for _ in range(5):
            await service.loop.round()
        states = [(await service.store.get(job)).state for job in jobs]
        assert states.count(JobState.QUEUED) == 3
        assert runner.started() == sorted([f"{jobs[1]}-1", f"{jobs[3]}-1"])
        runner.finish()
        for job in jobs:
            await service.until(job, JobState.SUCCEEDED)

    serve(body, Limits(running=2))


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


def test_a_job_that_failed_by_itself_is_not_tried_again(serve, runner) -> None:
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


def test_back_off_grows_to_a_minute() -> None:
    assert [back_off_seconds(n) for n in (0, 1, 2, 6, 5000)] == [1, 2, 4, 60, 60]


def test_cancelling_in_every_state(serve, runner) -> None:
    async def body(service: Service) -> None:
        blocker = await service.submit()
        await service.until(blocker, JobState.RUNNING)
        queued = await service.submit()
        assert (await service.store.request_cancel(queued, "by ann")).state is JobState.CANCELLED
        # Running.
        await service.store.request_cancel(blocker, "by ann")
        record = await service.until(blocker, JobState.CANCELLED)
        assert record.cause == "by ann"
        assert not runner.alive(f"{blocker}-1")
        # Starting: the service has named the driver and has not started it.
        starting = await service.submit()
        await service.store.begin_attempt(await service.store.get(starting))
        await service.store.request_cancel(starting, "by ann")
        await service.until(starting, JobState.CANCELLED)
        assert not runner.alive(f"{starting}-1")
        # Paused.
        paused = await service.submit()
        record = await service.until(paused, JobState.RUNNING)
        send(RunDirectory(record.run_dir), CommandKind.PAUSE)
        await service.until(paused, JobState.PAUSED)
        await service.store.request_cancel(paused, "by ann")
        await service.until(paused, JobState.CANCELLED)
        # Recovering, before the next driver.
        recovering = await service.submit()
        await service.until(recovering, JobState.RUNNING)
        os.kill(runner.pid(f"{recovering}-1"), signal.SIGKILL)
        await service.until(recovering, JobState.RECOVERING)
        await service.store.request_cancel(recovering, "by ann")
        assert (await service.until(recovering, JobState.CANCELLED)).attempt == 1

    serve(body, Limits(running=1))


def test_the_lower_priority_gives_way_and_goes_on_later(serve, runner) -> None:
    async def body(service: Service) -> None:
        low = await service.submit(priority=0)
        record = await service.until(low, JobState.RUNNING)
        high = await service.submit(priority=5)
        await service.until(high, JobState.RUNNING)
        events = [e["kind"] for e in RunDirectory(record.run_dir).events()]
        assert "checkpoint" in events
        record = await service.store.get(low)
        assert record.state is JobState.QUEUED
        assert high in record.cause
        runner.finish(0, high)
        await service.until(high, JobState.SUCCEEDED)
        record = await service.until(low, JobState.RUNNING)
        assert (record.attempt, record.restarts) == (2, 0)
        assert await service.states(low) == ["queued", "starting", "running", "queued", "starting", "running"]

    serve(body, Limits(running=1), preemption=True)


def test_a_cluster_that_is_away_is_waited_for(serve, runner) -> None:
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


def test_one_damaged_run_directory_holds_up_nobody(serve, runner) -> None:
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


def test_a_run_directory_that_cannot_be_made_fails_its_job(serve, runner, tmp_path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")

    async def body(service: Service) -> None:
        record = await service.until(await service.submit(), JobState.FAILED)
        assert "cannot be made" in record.cause

    serve(body)


def test_a_database_away_for_a_while_loses_nothing(postgres: Postgres, runner, tmp_path) -> None:
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


def test_what_can_never_fit_is_refused_with_the_reason() -> None:
    spec = small_spec(rollout={"workers": 3, "gpus": 1.0}, learner={"ranks": 1})
    cluster = Capacity(cpus=16, gpus=8)
    check_fits(spec, Limits(), cluster)
    for limits, capacity, words in (
        (Limits(gpus=3), cluster, "needs 4 GPUs and jobs may have 3 together"),
        (Limits(gpus_per_user=2), cluster, "a user may have 2 at a time"),
        (Limits(), Capacity(16, 2), "the cluster has 2"),
        (Limits(), Capacity(2, 8), "needs 5 CPUs"),
    ):
        with pytest.raises(NeverFitsError, match=words):
            check_fits(spec, limits, capacity)
    grows = small_spec(rollout={"workers": 1, "gpus": 1.0, "autoscale": {"max": 6}})
    with pytest.raises(NeverFitsError, match="needs 7 GPUs"):
        check_fits(grows, Limits(), Capacity(16, 4))
    assert gpus_of(scaled(spec, 5)) == 6
    assert gpus_of(scaled(grows, 2)) == 7


def test_two_loops_on_one_store_start_nothing_twice(tmp_path: Path, runner: FolderRunner) -> None:
    """One service at a time has a data directory; this is what would happen if two had one database all the same."""
    url = sqlite_url(tmp_path / "earshot.db")

    async def main() -> None:
        async with Store(url, tmp_path / "runs") as one, Store(url, tmp_path / "runs") as other:
            first, second = Service(one, runner), Service(other, runner)
            jobs = [await first.submit() for _ in range(6)]

            async def both(*wanted: JobState) -> None:
                async def there() -> bool:
                    return [(await one.get(job)).state for job in jobs] == list(wanted)

                await asyncio.gather(first.turn(there, 60), second.turn(there, 60))

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

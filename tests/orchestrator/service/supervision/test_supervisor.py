"""The supervisor on a real store, with fake drivers that are real processes."""

import os
import signal
from pathlib import Path

import pytest
from support.postgres import small_spec
from support.supervised import Service, runner, serve

from orchestrator.job.demand import max_gpus, scaled
from orchestrator.job.spec_file import read_spec
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import send
from orchestrator.schemas.job_state import JobState
from orchestrator.service.supervision.limits import Capacity, Limits, NeverFitsError, check_fits

__all__ = ["runner", "serve"]


def test_a_job_runs_until_it_ends(serve, runner) -> None:
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


def test_jobs_use_the_storage_of_the_service(serve, runner) -> None:
    async def body(service: Service) -> None:
        record = await service.until(await service.submit(), JobState.RUNNING)
        assert read_spec(Path(record.run_dir) / "job.yaml").storage == "s3://bucket/runs"
        runner.finish()

    serve(body, storage="s3://bucket/runs")


def test_no_more_jobs_run_than_allowed(serve, runner) -> None:
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
        # Starting: the submission id is stored and the driver not started yet.
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


def test_a_job_of_lower_priority_is_preempted_and_resumes_later(serve, runner) -> None:
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


def test_a_job_that_can_never_fit_is_refused_with_the_reason() -> None:
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
    assert max_gpus(scaled(spec, 5)) == 6
    assert max_gpus(scaled(grows, 2)) == 7

"""A failed or cancelled job that is retried: its next driver continues in the same run directory."""

from pathlib import Path

from support.supervised import Service, runner, serve

from orchestrator.run.directory import RunDirectory
from orchestrator.schemas.job_state import JobState

__all__ = ["runner", "serve"]


def test_a_failed_job_is_retried_by_another_driver_in_its_run_directory(serve, runner) -> None:
    async def body(service: Service) -> None:
        job = await service.submit(max_restarts=0)
        await service.until(job, JobState.RUNNING)
        runner.finish(1, job)
        failed = await service.until(job, JobState.FAILED)
        (runner.folder / f"finish-{job}").unlink()
        await service.store.retry(job, "retried by ann")
        again = await service.until(job, JobState.RUNNING)
        assert (again.attempt, again.submission_id, again.cause) == (2, f"{job}-2", None)
        assert (again.run_dir, again.finished_at) == (failed.run_dir, None)
        # With all of its restarts, and no more: this job may not be restarted.
        runner.kill_all()
        await service.until(job, JobState.FAILED)
        await service.store.retry(job, "retried by ann")
        runner.finish(0, job)
        done = await service.until(job, JobState.SUCCEEDED)
        assert (done.attempt, done.restarts) == (3, 0)
        assert runner.started() == [f"{job}-{attempt}" for attempt in (1, 2, 3)]
        attempts = [event for event in RunDirectory(Path(done.run_dir)).events() if event["kind"] == "attempt"]
        assert len(attempts) == 3
        assert (await service.states(job))[-4:] == ["failed", "queued", "starting", "succeeded"] or (
            await service.states(job)
        )[-5:] == ["failed", "queued", "starting", "running", "succeeded"]

    serve(body)


def test_a_cancelled_job_is_retried_and_not_cancelled_again(serve, runner) -> None:
    async def body(service: Service) -> None:
        job = await service.submit()
        await service.until(job, JobState.RUNNING)
        await service.store.request_cancel(job, "cancelled by ann")
        await service.until(job, JobState.CANCELLED)
        await service.store.retry(job, "retried by ann")
        await service.until(job, JobState.RUNNING)
        for _ in range(5):
            await service.loop.round()
        assert (await service.store.get(job)).state is JobState.RUNNING
        assert runner.alive(f"{job}-2")
        runner.finish()
        await service.until(job, JobState.SUCCEEDED)

    serve(body)

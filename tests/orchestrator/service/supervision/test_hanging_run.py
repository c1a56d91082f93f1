"""A run whose files hang delays nobody else's job, and is supervised again once they answer."""

import threading
from pathlib import Path

from support.supervised import Service, runner, serve

from orchestrator.run.history import RunHistory
from orchestrator.schemas.job_state import JobState
from orchestrator.service.supervision import supervisor
from orchestrator.service.supervision.run_watch import RunWatch

__all__ = ["runner", "serve"]


def test_other_jobs_go_on(serve, runner, monkeypatch) -> None:
    answers, hung, read = threading.Event(), set[Path](), RunWatch.read

    def slow(watch: RunWatch) -> RunHistory:
        if watch._events.parent in hung:
            assert answers.wait(60)
        return read(watch)

    monkeypatch.setattr(RunWatch, "read", slow)
    monkeypatch.setattr(supervisor, "_FILE_SECONDS", 0.3)

    async def body(service: Service) -> None:
        first = await service.submit()
        await service.until(first, JobState.RUNNING)
        hung.add(Path((await service.store.get(first)).run_dir))
        second = await service.submit()
        await service.until(second, JobState.RUNNING)
        runner.finish()
        await service.until(second, JobState.SUCCEEDED)
        assert (await service.store.get(first)).state is JobState.RUNNING
        answers.set()
        await service.until(first, JobState.SUCCEEDED)

    try:
        serve(body)
    finally:
        answers.set()

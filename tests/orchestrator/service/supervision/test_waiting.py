"""Reasons to wait while the database is slow."""

import asyncio
from types import SimpleNamespace

import pytest

from orchestrator.schemas.job_state import JobState
from orchestrator.service.supervision import waiting
from orchestrator.service.supervision.limits import Limits
from orchestrator.service.supervision.waiting import Situation, WaitingJobs


def test_a_slow_database_is_asked_for_one_schedule_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made, go_on = [], asyncio.Event()

    async def slow(*_: object, **__: object) -> None:
        made.append(1)
        await go_on.wait()

    async def positions(jobs):
        return {job.id: 1 for job in jobs}

    async def body() -> None:
        situation = Situation(Limits(), 4.0, False, "the database is slow")
        reasons = WaitingJobs(SimpleNamespace(queue_positions=positions), lambda: situation)
        job = SimpleNamespace(id="a", state=JobState.QUEUED)
        asked = []
        for _ in range(5):
            asked.append(asyncio.create_task(reasons.of([job])))
            await asyncio.sleep(0.02)
        assert len(made) == 1
        go_on.set()
        assert {wait["a"].reason for wait in await asyncio.gather(*asked)} == {"the database is slow"}
        await reasons.of([job])
        assert len(made) == 2

    monkeypatch.setattr(waiting, "_SECONDS", 0.01)
    monkeypatch.setattr(waiting, "schedule_of", slow)
    asyncio.run(body())

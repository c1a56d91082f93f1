"""Jobs that an earlier version has started, whose specification this version does not accept any more."""

from pathlib import Path

import pytest
from sqlalchemy import update
from support.service import SPEC, check_problem, service

from orchestrator.service.store.tables import jobs

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_such_a_job_is_not_scaled_and_the_answer_says_why(tmp_path: Path) -> None:
    async with service(tmp_path) as made:
        job, run = await made.running()
        async with made.store._database.write() as connection:
            await connection.execute(update(jobs).where(jobs.c.id == job.id).values(spec={**SPEC, "gone": 1}))
        answer = await made.client().patch(f"/v1/jobs/{job.id}/rollout-workers", json={"count": 3})
        assert "this version of Earshot cannot run the job (job: " in check_problem(answer, 422)["detail"]
        assert "unknown key 'gone'" in check_problem(answer, 422)["detail"]
        assert not (run.path / "commands.jsonl").exists()

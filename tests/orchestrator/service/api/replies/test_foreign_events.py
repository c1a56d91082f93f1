"""Events of a run that another program wrote: they hide neither the job nor those of others."""

import pytest
from support.service import service

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("evaluation", {"step": "last", "result": {"accuracy": [1]}}),
        ("scaled", {"target": "many"}),
        ("worker_started", {"worker": "rollout-7", "node": 5, "pid": "x"}),
    ],
)
async def test_events_with_values_of_other_kinds_hide_no_job(tmp_path, kind, fields):
    async with service(tmp_path) as made:
        job, run = await made.running()
        run.append_event("worker_started", worker="rollout-0", node="n", pid=1, weight_version=0)
        run.append_event(kind, **fields)
        client = made.client()
        for url in ("/v1/jobs", f"/v1/jobs/{job.id}", f"/v1/jobs/{job.id}/workers"):
            answer = await client.get(url)
            assert answer.status_code == 200, answer.text
        assert "rollout-0" in [worker["name"] for worker in answer.json()["items"]]

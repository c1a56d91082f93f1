"""kill -9 of the service while three real jobs run and five wait, again and again. `make chaos` runs it."""

import json
import os
import random
import time

import pytest
from integration.test_service import job, service

__all__ = ["job", "service"]

KILLS = 8

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not float(os.environ.get("EARSHOT_CHAOS_SECONDS", "0")), reason="takes minutes: make chaos"),
]


def test_three_jobs_run_on_and_five_wait(service, job):
    endless = {**job, "steps": 100_000, "checkpoint": {"every": 0}}
    service.start("--max-running", "3")
    jobs = [service.submit(endless) for _ in range(8)]
    running, waiting = jobs[:3], jobs[3:]
    # From before the first driver is requested until all three jobs have made steps.
    moments = random.Random(7)
    for _ in range(KILLS):
        time.sleep(moments.uniform(0, 3))
        service.kill()
        service.start("--max-running", "3")
    for one in running:
        service.until(one, "running", seconds=400)
        service.wait(lambda one=one: len(service.run(one).metrics()) > 2, seconds=400)
    drivers = [service.driver(one) for one in running]
    for _ in range(KILLS):
        time.sleep(moments.uniform(0, 3))
        done = [len(service.run(one).metrics()) for one in running]
        service.kill()
        service.wait(
            lambda done=done: all(len(service.run(o).metrics()) > n for o, n in zip(running, done, strict=True))
        )
        service.start("--max-running", "3")
    states = [service.get(f"/jobs/{one}") for one in jobs]
    assert [state["state"] for state in states] == ["running"] * 3 + ["queued"] * 5
    assert [(state["attempt"], state["restarts"]) for state in states[:3]] == [(1, 0)] * 3
    assert [service.driver(one) for one in running] == drivers
    assert all(driver.is_running() for driver in drivers)
    for one in running:
        events = service.run(one).events()
        assert [e["kind"] for e in events].count("attempt") == 1
        steps = [m["step"] for m in service.run(one).metrics()]
        assert steps == list(range(1, len(steps) + 1))
    assert not any((service.data_dir / "runs" / one / "events.jsonl").exists() for one in waiting)
    for one in [*waiting, *running]:
        service.cancel(one)
    for one in jobs:
        service.until(one, "cancelled", seconds=120)
    service.wait(lambda: not service.get("/cluster")["nodes"][0]["uses"], 60)
    print(json.dumps({"kills": 2 * KILLS, "steps": [len(service.run(one).metrics()) for one in running]}))
    assert service.stop() == 0
    assert service.processes() == []

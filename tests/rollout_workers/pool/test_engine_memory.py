"""The turns of engines and learner on GPUs that they share, with simulated workers."""

import asyncio

import pytest
from support.pool import Fleet, played

from rollout_workers.pool import engine_memory

pytestmark = pytest.mark.usefixtures("fast_restarts")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(engine_memory, "SECONDS_TO_FREE", 0.5)


@played
async def test_the_memory_of_a_worker_that_was_lost_just_before_is_free():
    fleet, clock = Fleet(), asyncio.get_running_loop().time
    pool = fleet.pool
    await pool.start(1)
    (worker,) = pool._workers.workers.values()
    pool._dispatcher.lose(worker, "died")
    assert not fleet.handle("rollout-0").killed
    began = clock()
    await pool.memory.sleep()
    assert clock() - began > engine_memory.SECONDS_TO_FREE - 0.1
    assert fleet.handles["rollout-0"][0].killed
    return fleet

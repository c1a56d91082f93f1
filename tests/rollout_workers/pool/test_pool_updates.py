"""Weight updates of simulated workers that join, lag, fail and leave."""

import asyncio
from dataclasses import replace

import pytest
from support.pool import LIMITS, SAMPLING, Fleet, check, played, requests, weights

from protocol.weights import Carrier
from rollout_workers.errors import ElsewhereError, WeightsUnavailableError, WorkerFailedError, WorkerLostError
from rollout_workers.pool import weight_keeper
from rollout_workers.simulated import SimulatedPace
from rollout_workers.weight_sync.nccl import NcclSync
from rollout_workers.weight_sync.shared_memory import SharedMemorySync
from rollout_workers.weight_sync.sync import ObjectStoreSync

pytestmark = pytest.mark.usefixtures("fast_restarts")


@played
async def test_no_request_waits_for_a_starting_worker_which_takes_the_newest_weights_first():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(1)
    await pool.update(weights(1))
    fleet.pace = SimulatedPace(start_seconds=0.6, update_seconds=0.5)
    pool.scale(2, "by hand")
    asked = requests(20)
    check(await pool.generate(asked, SAMPLING), asked)
    assert fleet.states()["rollout-1"] == "starting"
    while fleet.states()["rollout-1"] == "starting":
        await asyncio.sleep(0.01)
    assert fleet.states()["rollout-1"] == "syncing"
    await pool.update(weights(2))  # while it takes the first
    assert fleet.states()["rollout-1"] == "syncing"
    await pool.wait_until_serving(2)
    assert [view.weight_version for view in pool.workers()] == [2, 2]
    answers = await pool.generate(requests(40), SAMPLING)
    assert {(a.worker, a.weight_version) for a in answers} == {("rollout-0", 2), ("rollout-1", 2)}
    fleet.handle("rollout-0").crash()
    await pool.wait_until_serving(2)
    assert [view.weight_version for view in pool.workers()] == [2, 2]
    return fleet


@played
async def test_versions_may_decrease():
    """A learner that returned to its checkpoint publishes an older version, which is still the newest update."""
    fleet = Fleet()
    await fleet.pool.start(1)
    for version in (5, 3):
        report = await fleet.pool.update(weights(version))
        assert (report.version, report.updated, report.late, report.dropped) == (version, ("rollout-0",), (), {})
    (answer,) = await fleet.pool.generate(requests(1), SAMPLING)
    assert answer.weight_version == 3
    return fleet


@played
async def test_an_update_drops_failed_workers_and_does_not_wait_for_late_ones():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(4)
    await pool.wait_until_serving(4)

    async def failing(update):
        raise WorkerFailedError("'update' failed: ValueError: the bytes are not those that were sent")

    fleet.handle("rollout-1").worker.update = failing
    fleet.handle("rollout-2").worker._pace = SimulatedPace(update_seconds=0.5)
    fleet.handle("rollout-3").freeze()
    report = await pool.update(weights(7))
    assert report.updated == ("rollout-0",)
    assert set(report.late) <= {"rollout-2", "rollout-3"}
    assert "rollout-2" in report.late
    assert "not those that were sent" in report.dropped["rollout-1"]
    assert report.seconds < 0.45
    asked = requests(10)
    check(await pool.generate(asked, SAMPLING), asked)
    await pool.wait_until_serving(4)
    assert [view.weight_version for view in pool.workers()] == [7] * 4
    assert [view.restarts for view in pool.workers()] == [0, 1, 0, 1]
    return fleet


@played
async def test_a_wrong_version_after_an_update_is_a_failure():
    fleet = Fleet()
    await fleet.pool.start(1)

    async def stale(update):
        return update.version - 1

    fleet.handle("rollout-0").worker.update = stale
    report = await fleet.pool.update(weights(4))
    assert "has weight version 3 after an update to 4" in report.dropped["rollout-0"]
    await fleet.pool.wait_until_serving(1)
    return fleet


@played
async def test_lost_bytes_are_published_again_or_the_next_update_is_awaited():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(1)
    lost = {1, 2}

    def losing(handle):
        take = handle.worker.update

        async def update(update):
            if update.nbytes == 0 and update.version in lost:
                raise WeightsUnavailableError("the owner died")
            return await take(update)

        handle.worker.update = update

    await pool.update(weights(1))
    fleet.prepare = losing
    published = []

    async def republish():
        published.append(1)
        return replace(weights(1), nbytes=1)

    pool.use_weight_sync(ObjectStoreSync(), republish)
    pool.scale(2, "by hand")
    await pool.wait_until_serving(2)
    assert published == [1]

    async def learner_is_dead():
        raise RuntimeError("no learner")

    pool.use_weight_sync(ObjectStoreSync(), learner_is_dead)
    await pool.update(weights(2))
    pool.scale(3, "by hand")
    await asyncio.sleep(0.05)
    assert fleet.states()["rollout-2"] == "syncing"
    assert any("no learner" in d["cause"] for kind, d in fleet.events if kind == "weights_unavailable")
    await pool.update(weights(3))
    await pool.wait_until_serving(3)
    assert pool.counts["restarts"] == 0
    return fleet


@pytest.mark.parametrize("carrier", [Carrier.SHARED_MEMORY, Carrier.NCCL])
def test_a_worker_that_joins_elsewhere_waits_for_the_learner_as_long_as_it_takes(carrier, monkeypatch):
    """The learner's delay does not count against the worker: it may be busy with a step, or restarting."""
    monkeypatch.setattr(weight_keeper, "GRACE_SECONDS", 0.05)

    @played
    async def play():
        fleet = Fleet(LIMITS.model_copy(update={"update_seconds": 0.1}))
        pool = fleet.pool
        await pool.start(1)
        await pool.update(weights(1))

        def elsewhere(handle):
            take = handle.worker.update

            async def update(update):
                if update.carrier is not Carrier.OBJECT_STORE:
                    raise ElsewhereError("in the memory of another machine")
                return await take(update)

            handle.worker.update = update

        async def republish():
            await asyncio.sleep(0.5)
            return weights(1)

        sync = (
            SharedMemorySync(None) if carrier is Carrier.SHARED_MEMORY else NcclSync(None, ranks_each=1, limits=LIMITS)
        )
        pool.use_weight_sync(sync, republish)
        pool._keeper.latest = replace(weights(1), carrier=carrier)
        fleet.prepare = elsewhere
        pool.scale(2, "by hand")
        await pool.wait_until_serving(2)
        assert [view.weight_version for view in pool.workers()] == [1, 1]
        assert pool.counts["restarts"] == 0
        assert not fleet.kinds()["weights_unavailable"], "nothing is wrong"
        return fleet

    play()


@played
async def test_weights_are_published_again_while_another_worker_starts():
    fleet, may_start = Fleet(), asyncio.Event()
    pool = fleet.pool
    await pool.start(1)

    def prepare(handle):
        start, take = handle.worker.start, handle.worker.update

        async def slow_start():
            await may_start.wait()
            return await start()

        async def update(update):
            if not update.nbytes:
                raise WeightsUnavailableError("the owner died")
            return await take(update)

        handle.worker.update = update
        if "rollout-1" in fleet.handles:
            handle.worker.start = slow_start

    await pool.update(weights(1))
    fleet.prepare = prepare

    async def republish():
        return replace(weights(1), nbytes=1)

    pool.use_weight_sync(ObjectStoreSync(), republish)
    pool.scale(3, "by hand")
    async with asyncio.timeout(5):
        await pool.wait_until_serving(2)
    assert "starting" in fleet.states().values()
    may_start.set()
    await pool.wait_until_serving(3)
    return fleet


@played
async def test_an_update_of_a_worker_that_was_replaced_is_over_when_it_has_failed():
    fleet, outcome = Fleet(), asyncio.get_running_loop().create_future()
    pool = fleet.pool
    await pool.start(1)

    class Held(ObjectStoreSync):
        def distribute(self, update, receivers):
            return dict.fromkeys(receivers, outcome)

    pool.use_weight_sync(Held())
    updating = asyncio.ensure_future(pool.update(weights(1)))
    await asyncio.sleep(0)
    fleet.handle("rollout-0").crash()
    await pool.wait_until_serving(1)
    arrived = asyncio.ensure_future(pool._keeper.wait_arrived())
    await asyncio.sleep(0.05)
    assert not arrived.done()
    outcome.set_exception(WorkerLostError("died"))
    async with asyncio.timeout(5):
        await arrived
    assert (await updating).dropped == {"rollout-0": "died"}
    return fleet

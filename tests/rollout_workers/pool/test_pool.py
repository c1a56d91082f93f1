"""The pool's logic, with simulated workers that join and leave."""

import asyncio
from collections import Counter

import pytest
from support.pool import SAMPLING, Fleet, check, played, requests, weights

from rollout_workers.pool.worker_record import WorkerState
from rollout_workers.simulated import SimulatedPace

pytestmark = pytest.mark.usefixtures("fast_restarts")


@played
async def test_scaling_from_one_to_three_to_none_to_two_loses_nothing():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(1)
    asked = requests(200)
    answers = asyncio.ensure_future(pool.generate(asked, SAMPLING))
    await asyncio.sleep(0.02)
    pool.scale(3, "by hand")
    await pool.wait_until_serving(3)
    pool.scale(0, "by hand")
    await asyncio.sleep(0.1)
    assert (len(pool), pool.alive, pool.target) == (0, 0, 0)
    assert not answers.done()
    assert pool.waiting > 0
    late = pool.submit(requests(1, 500)[0], SAMPLING)
    pool.scale(2, "by hand")
    check(await answers, asked)
    check([await late], requests(1, 500))
    assert {a.worker for a in await answers} == {"rollout-0", "rollout-1", "rollout-2"}
    assert [d["target"] for kind, d in fleet.events if kind == "scaled"] == [1, 3, 0, 2]
    assert fleet.kinds()["worker_left"] == 3
    assert pool.counts == {"restarts": 0, "requeued": 0, "failed": 0}
    return fleet


@played
async def test_requests_go_to_the_least_loaded_worker():
    fleet = Fleet()
    await fleet.pool.start(4)
    await fleet.pool.wait_until_serving(4)
    answers = await fleet.pool.generate(requests(40), SAMPLING)
    assert set(Counter(a.worker for a in answers).values()) == {10}
    assert [view.requests_finished for view in fleet.pool.workers()] == [10] * 4
    assert [view.tokens_generated for view in fleet.pool.workers()] == [10 * 4 * 8] * 4
    return fleet


@played
async def test_requests_of_a_slot_that_leaves_go_to_others():
    fleet = Fleet(pace=SimulatedPace(group_seconds=0.05, groups_at_once=1), whole_batches=True)
    await fleet.pool.start(2)
    asked = requests(6)
    answers = asyncio.ensure_future(fleet.pool.generate(asked, SAMPLING, round_robin=True))
    await asyncio.sleep(0.02)
    fleet.handle("rollout-1").crash()
    fleet.pool.scale(1, "by hand")
    check(await answers, asked)
    assert {a.worker for a in answers.result()} == {"rollout-0"}
    return fleet


@played
async def test_workers_of_whole_batches_are_assigned_requests_round_robin_by_default():
    fleet = Fleet(whole_batches=True)
    await fleet.pool.start(2)
    answers = await fleet.pool.generate(requests(5), SAMPLING)
    assert [a.worker for a in answers] == [f"rollout-{i % 2}" for i in range(5)]
    return fleet


@played
async def test_a_worker_without_room_is_pending_and_visible():
    fleet = Fleet()
    await fleet.pool.start(1)
    fleet.room = asyncio.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollout_workers.pool.worker_life.PENDING_SECONDS", 0.05)
        fleet.pool.scale(2, "by hand")
        await asyncio.sleep(0.1)
    assert fleet.states() == {"rollout-0": "serving", "rollout-1": "pending"}
    assert (fleet.pool.alive, len(fleet.pool)) == (1, 2)
    assert fleet.detail("worker_pending")["worker"] == "rollout-1"
    fleet.room.set()
    await fleet.pool.wait_until_serving(2)
    fleet.room = asyncio.Event()
    fleet.pool.scale(3, "by hand")
    await asyncio.sleep(0.01)
    fleet.pool.scale(2, "by hand")
    await asyncio.sleep(0.01)
    assert fleet.states() == {"rollout-0": "serving", "rollout-1": "serving", "rollout-2": "gone"}
    return fleet


@played
async def test_a_leaving_worker_finishes_its_requests_or_hands_them_back():
    fleet = Fleet(pace=SimulatedPace(group_seconds=0.2, groups_at_once=4))
    pool = fleet.pool
    await pool.start(2)
    await pool.wait_until_serving(2)
    asked = requests(4)
    answers = asyncio.ensure_future(pool.generate(asked, SAMPLING))
    await asyncio.sleep(0.02)
    pool.scale(1, "by hand")
    await asyncio.sleep(0.02)
    assert fleet.states() == {"rollout-0": "serving", "rollout-1": "draining"}
    check(await answers, asked)
    assert {a.worker for a in answers.result()} == {"rollout-0", "rollout-1"}
    pool.scale(2, "by hand")
    await pool.wait_until_serving(2)
    fleet.handle("rollout-1").worker._pace = SimulatedPace(group_seconds=1000)
    answers = asyncio.ensure_future(pool.generate(asked, SAMPLING))
    await asyncio.sleep(0.02)
    pool.scale(1, "by hand")
    check(await answers, asked)
    assert {a.worker for a in answers.result()} == {"rollout-0"}
    assert [d["handed_back"] for kind, d in fleet.events if kind == "worker_drained"] == [0, 2]
    assert pool.counts == {"restarts": 0, "requeued": 2, "failed": 0}
    return fleet


@played
async def test_a_draining_worker_is_kept_if_it_is_wanted_again():
    fleet = Fleet(pace=SimulatedPace(group_seconds=0.2, groups_at_once=4))
    pool = fleet.pool
    await pool.start(2)
    await pool.wait_until_serving(2)
    answers = asyncio.ensure_future(pool.generate(requests(4), SAMPLING))
    await asyncio.sleep(0.02)
    pool.scale(1, "by hand")
    await asyncio.sleep(0.02)
    await pool.update(weights(1))
    pool.scale(2, "by hand")
    await pool.wait_until_serving(2)
    assert [view.weight_version for view in pool.workers()] == [1, 1]
    assert [len(made) for made in fleet.handles.values()] == [1, 1]
    await answers
    return fleet


@played
async def test_a_worker_wanted_again_while_its_task_ends_is_replaced():
    fleet = Fleet()
    await fleet.pool.start(1)
    handle = fleet.handle("rollout-0")
    kill = handle.kill

    def kill_and_scale() -> None:
        kill()  # the last action of the task
        asyncio.get_running_loop().call_soon(fleet.pool.scale, 1, "at the last moment")

    handle.kill = kill_and_scale
    fleet.pool.scale(0, "by hand")
    await asyncio.sleep(0.05)
    await fleet.pool.wait_until_serving(1)
    asked = requests(5)
    check(await fleet.pool.generate(asked, SAMPLING), asked)
    fleet.pool.scale(0, "by hand")
    return fleet


@played
async def test_cancelled_requests_are_not_answered():
    fleet = Fleet(pace=SimulatedPace(group_seconds=1000, groups_at_once=4))
    pool = fleet.pool
    await pool.start(1)
    asked = [pool.submit(r, SAMPLING) for r in requests(20)]
    await asyncio.sleep(0.01)
    assert (pool.in_flight, pool.waiting) == (10, 10)
    for future in asked:
        future.cancel()
    await asyncio.sleep(0.01)
    assert (pool.in_flight, pool.waiting) == (0, 0)
    assert not pool._workers.workers[0].entries
    assert pool._workers.workers[0].load == 0
    return fleet


@played
async def test_stop_cancels_requests():
    fleet = Fleet(pace=SimulatedPace(group_seconds=1000))
    await fleet.pool.start(2)
    answers = [fleet.pool.submit(r, SAMPLING) for r in requests(50)]
    await asyncio.sleep(0.01)
    await fleet.pool.stop()
    assert all(answer.cancelled() for answer in answers)
    assert {view.state for view in fleet.pool.workers()} == {WorkerState.GONE}
    return fleet

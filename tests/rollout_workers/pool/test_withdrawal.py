"""Workers give up their room on the cluster for others that come first, and come back afterwards."""

import asyncio

from support.pool import SAMPLING, Fleet, check, played, requests, weights

from rollout_workers.pool.worker_record import WorkerState
from rollout_workers.simulated import SimulatedPace


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@played
async def test_requests_without_room_are_withdrawn_and_made_again() -> Fleet:
    fleet = Fleet()
    fleet.room = asyncio.Event()
    fleet.pool.scale(2, "test")
    await until(lambda: len(fleet.handles) == 2)
    fleet.pool.hold()
    await until(lambda: all(handle.killed for made in fleet.handles.values() for handle in made))
    fleet.room.set()
    await asyncio.sleep(0.1)
    assert [len(made) for made in fleet.handles.values()] == [1, 1]
    assert (fleet.pool.target, len(fleet.pool)) == (2, 0)
    fleet.pool.release()
    await fleet.pool.wait_until_serving(2)
    assert [len(made) for made in fleet.handles.values()] == [2, 2]
    assert fleet.pool.counts["restarts"] == 0
    return fleet


@played
async def test_the_least_useful_worker_gives_its_room_first() -> Fleet:
    fleet = Fleet()
    await fleet.pool.start(3)
    await fleet.pool.wait_until_serving(3)
    fleet.pace = SimulatedPace(start_seconds=60)
    fleet.pool.scale(4, "test")
    await until(lambda: fleet.states().get("rollout-3") == WorkerState.STARTING)
    fleet.pool.hold()
    given = []
    while fleet.pool.give_room():
        given.append(next(name for kind, detail in reversed(fleet.events) if (name := detail.get("worker"))))
    assert given == ["rollout-3", "rollout-2", "rollout-1", "rollout-0"]
    assert set(fleet.states().values()) == {"gone"}
    fleet.pace = SimulatedPace()
    fleet.pool.release()
    await fleet.pool.wait_until_serving(4)
    assert fleet.pool.counts["restarts"] == 0
    return fleet


@played
async def test_what_a_withdrawn_worker_had_to_do_is_done_by_others() -> Fleet:
    fleet = Fleet(pace=SimulatedPace(group_seconds=0.2))
    await fleet.pool.start(2)
    await fleet.pool.wait_until_serving(2)
    asked = requests(24)
    answers = asyncio.gather(*(fleet.pool.submit(request, SAMPLING) for request in asked))
    await asyncio.sleep(0.1)
    fleet.pool.hold()
    assert fleet.pool.give_room()
    # Weights that arrive meanwhile do not bring it back.
    await fleet.pool.update(weights(3))
    await fleet.pool.update(weights(4))
    assert fleet.states() == {"rollout-0": "serving", "rollout-1": "gone"}
    check(await answers, asked)
    assert fleet.detail("worker_withdrawn")["requeued"] > 0
    assert not {"worker_lost", "worker_restart"} & fleet.kinds().keys()
    fleet.pool.release()
    await fleet.pool.wait_until_serving(2)
    assert {view.weight_version for view in fleet.pool.workers()} == {4}
    return fleet


@played
async def test_a_worker_that_is_about_to_serve_can_be_withdrawn() -> Fleet:
    """Whatever it was doing: it neither serves nor counts as alive afterwards."""
    for delay in range(12):
        fleet = Fleet(pace=SimulatedPace(update_seconds=0.0))
        fleet.pool.scale(1, "test")
        for _ in range(delay):
            await asyncio.sleep(0)
        fleet.pool.hold()
        fleet.pool.give_room()
        for _ in range(30):
            await asyncio.sleep(0)
        assert (fleet.pool.alive, set(fleet.states().values())) == (0, {"gone"}), delay
        fleet.pool.release()
        await fleet.pool.wait_until_serving(1)
        if delay < 11:
            await fleet.pool.stop()
    return fleet


@played
async def test_a_held_pool_can_be_scaled_and_stopped() -> Fleet:
    fleet = Fleet()
    fleet.pool.hold()
    fleet.pool.scale(3, "test")
    await asyncio.sleep(0.05)
    fleet.pool.scale(1, "test")
    assert not fleet.handles
    fleet.pool.release()
    await fleet.pool.wait_until_serving(1)
    await until(lambda: len(fleet.pool) == 1)
    fleet.pool.hold()
    fleet.pool.give_room()
    return fleet


@played
async def test_workers_that_take_no_room_keep_it() -> Fleet:
    """Those of a job's own Ray share its CPUs without reserving any."""
    fleet = Fleet(cpus_per_worker=0)
    await fleet.pool.start(1)
    fleet.pool.hold()
    assert not fleet.pool.give_room()
    fleet.pool.scale(2, "test")
    await fleet.pool.wait_until_serving(2)
    return fleet

"""Reserved rooms on real nodes, whose GPUs only Ray counts."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest
import ray
from support.cluster.node import Node, alive

from orchestrator.cluster.placement import Bundles
from orchestrator.cluster.reservation import Reservation, ReservationState
from orchestrator.driver.room import Room
from protocol.rollout import WorkerSettings
from rollout_workers.pool.pool import RolloutPool

GPU = {"CPU": 1, "GPU": 1}
FOUR = Bundles((GPU,) * 4)

pytestmark = pytest.mark.timeout(300)


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def free_gpus():
    return ray.available_resources().get("GPU", 0)


async def granted(reservation):
    async with asyncio.timeout(60):
        while await reservation.state() is not ReservationState.GRANTED:
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def early(cluster):
    """A room that was requested while the cluster had no GPU."""
    return Reservation(FOUR)


@pytest.fixture(scope="module", autouse=True)
def nodes(early):
    """Two nodes with eight GPUs each join."""
    before, made = alive(), []
    for number in (1, 2):
        made.append(Node(cpus=16, gpus=8))
        asyncio.run(made[-1].joined(before + number))
    yield
    for node in made:
        node.leave()
    until(lambda: alive() <= before, 120)


def test_a_room_that_was_requested_before_the_nodes_joined(early):
    asyncio.run(granted(early))
    assert len(set(asyncio.run(early.nodes()))) == 1
    early.cancel()
    until(lambda: free_gpus() == 16)


def test_a_learner_waits_for_one_node_and_holds_nothing_meanwhile():
    async def scene():
        # Three GPUs are left on each node: enough for four ranks on two nodes.
        others = [Reservation(Bundles(({"GPU": 5},))) for _ in range(2)]
        for other in others:
            await granted(other)
        assert len({node for other in others for node in await other.nodes()}) == 2
        events = []
        room = Room(RolloutPool(WorkerSettings("m", 64)), lambda kind, **detail: events.append((kind, detail)))
        learner = room.reserve("learner", FOUR)
        assert not await room.wait("learner", learner, 2)
        assert await learner.state() is ReservationState.WAITING
        ((kind, detail),) = events
        assert (kind, detail["part"], detail["needs"]) == ("room_pending", "learner", "4 GPUs and 4 CPUs on one node")
        assert free_gpus() == 6
        others[0].cancel()
        assert await room.wait("learner", learner, 60)
        assert len(set(await learner.nodes())) == 1
        for reservation in (learner, others[1]):
            reservation.cancel()

    asyncio.run(scene())
    until(lambda: free_gpus() == 16)


def test_more_ranks_than_a_node_has_gpus_fill_one_node_first():
    async def scene():
        learner = Reservation(Bundles((GPU,) * 12))
        await granted(learner)
        placed = await learner.nodes()
        assert sorted(placed.count(node) for node in set(placed)) == [4, 8]
        learner.cancel()

    asyncio.run(scene())
    until(lambda: free_gpus() == 16)


def test_workers_on_the_learners_node_have_its_last_bundles():
    async def scene():
        other = Reservation(Bundles(({"GPU": 5},)))
        await granted(other)
        room = Room(RolloutPool(WorkerSettings("m", 64)), lambda kind, **detail: None)
        learner = room.reserve("learner", Bundles((GPU,) * 5, first_worker=3, workers=2, one_node=True))
        assert await room.wait("learner", learner, 60)
        assert len({*await learner.nodes(), *await other.nodes()}) == 2
        first, second, third = (room.place_worker(slot, range(slot)) for slot in range(3))
        assert (first.placement_group_bundle_index, second.placement_group_bundle_index, third) == (3, 4, None)
        # A replacement, and a worker that takes the place of one that left.
        assert room.place_worker(1, [0, 2]).placement_group_bundle_index == 4
        assert room.place_worker(5, [1, 2]).placement_group_bundle_index == 3
        room.give_back(learner)
        assert room.place_worker(0, []) is None
        other.cancel()

    asyncio.run(scene())
    until(lambda: free_gpus() == 16)


def test_an_engines_gpus_are_on_one_node():
    class Engine:
        def gpus(self):
            return len(set(ray.get_gpu_ids())), os.environ["CUDA_VISIBLE_DEVICES"].count(",") + 1

    engines = [ray.remote(Engine).options(num_cpus=1, num_gpus=3).remote() for _ in range(4)]
    assert ray.get([engine.gpus.remote() for engine in engines], timeout=60) == [(3, 3)] * 4
    for engine in engines:
        ray.kill(engine)
    until(lambda: free_gpus() == 16)


DRIVER = """
import asyncio, sys, time, ray
from orchestrator.cluster.placement import Bundles
from orchestrator.cluster.reservation import Reservation, ReservationState

ray.init(address=sys.argv[1], log_to_driver=False)
reservation = Reservation(Bundles(({"CPU": 1, "GPU": 1},) * 4))
while asyncio.run(reservation.state()) is not ReservationState.GRANTED:
    time.sleep(0.1)
print("granted", flush=True)
time.sleep(1000)
"""


def test_a_killed_driver_leaves_no_room_reserved():
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, address], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout.readline() == "granted\n"
        until(lambda: free_gpus() == 12)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    until(lambda: free_gpus() == 16)

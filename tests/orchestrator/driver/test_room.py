"""The learner's ranks get room on the cluster before rollout workers. On real Ray, whose parts need a resource that one
node has."""

import asyncio
import time

import pytest
import ray
from support.cluster.node import Node, alive
from support.pool import Fleet, played

from learner.errors import LearnerLostError
from orchestrator.cluster.placement import Bundles
from orchestrator.cluster.reservation import Reservation, ReservationState
from orchestrator.display.progress import make_progress
from orchestrator.driver import recovery
from orchestrator.driver import room as room_module
from orchestrator.driver.room import Room
from orchestrator.job.spec import JobSpec
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.state import RunState
from protocol.rollout import WorkerSettings
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.simulated import SimulatedPace, SimulatedWorker
from rollout_workers.worker.handle import ActorHandle

SEATS = 3
SOON = 20.0
"""Seconds within which ranks are placed: far below the deadline of a learner's start, and enough on a busy machine."""
SPEC = JobSpec.model_validate(
    {"model": {"path": "builtin:tiny-qwen2-audio", "max_context": 512}, "data": {"train": "t"}}
)


class Seats(Room):
    """Room for ranks that need seats instead of CPUs."""

    def reserve(self, part, bundles):
        return super().reserve(part, Bundles(({"seats": 1},) * len(bundles.needs)))


class Learner:
    """The ranks, which start once they are placed."""

    def __init__(self, settings, *, places, **_):
        options = {"num_cpus": 0, "resources": {"seats": 1}, "max_restarts": 0}
        # Any actor of a module that Ray's processes can import.
        actor = ray.remote(SimulatedWorker).options(**options, scheduling_strategy=places[0])
        self.rank = actor.remote("rank", SimulatedPace())

    async def start(self):
        await self.rank.__ray_ready__.remote()

    async def stop(self):
        ray.kill(self.rank)

    async def publish(self, carrier):
        raise NotImplementedError


@pytest.fixture(scope="module")
def seats(cluster):
    """A node with three seats joins the cluster."""
    before, node = alive(), Node(seats=SEATS)
    asyncio.run(node.joined(before + 1))
    yield
    node.leave()
    deadline = time.monotonic() + 120
    while alive() > before:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(room_module, "_ALONE_SECONDS", 0.5)


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def make_worker(name):
    options = {"num_cpus": 0, "resources": {"seats": 1}, "max_concurrency": 100, "max_restarts": 0}
    return ActorHandle(ray.remote(SimulatedWorker).options(**options).remote(name, SimulatedPace()))


class Job:
    """A job whose learner is lost once, with as many workers as wanted, and what happens to it."""

    def __init__(self, tmp_path, monkeypatch, workers, lose):
        monkeypatch.setattr(recovery, "LearnerGroup", Learner)
        monkeypatch.setattr(recovery, "_FIRST_BACK_OFF_SECONDS", 0.01)

        async def attempt(supervisor, up):
            await self._attempt(supervisor, up)

        monkeypatch.setattr(recovery.LearnerSupervisor, "_run_attempt", attempt)
        self.run_dir = RunDirectory.create(tmp_path / "run", "name: test\n")
        self.workers, self.lose, self.lost_at = workers, lose, None

    async def _attempt(self, supervisor, workers):
        await workers
        if self.lost_at is None:
            await until(lambda: self.pool.alive == SEATS - 1)
            await self.lose(self.pool, supervisor)
            self.lost_at = time.monotonic()
            raise LearnerLostError("its node was lost")
        self.placed_after = time.monotonic() - self.lost_at
        self.states = sorted(str(view.state) for view in self.pool.workers())

    async def play(self):
        self.pool = RolloutPool(
            WorkerSettings("model", 64, max_concurrent=4),
            RolloutLimits(silent_seconds=30),
            make_worker=make_worker,
            on_event=self.run_dir.append_event,
        )
        job = recovery.LearnerSupervisor(
            Prepared(SPEC, "m", (), (), None, True, 0), self.run_dir, RunState(), make_progress("quiet"), self.pool,
            None, Control(self.run_dir), Seats(self.pool, self.run_dir.append_event),
        )  # fmt: skip
        self.pool.scale(self.workers, "test")
        try:
            await job.run(asyncio.ensure_future(self.pool.wait_started()))
            # What is left goes to workers.
            await self.pool.wait_until_serving(SEATS - 1)
        finally:
            await job.learner.stop()
            await self.pool.stop()
            job._reservation.cancel()

    def kinds(self):
        return [event["kind"] for event in self.run_dir.events()]


def play(*arguments):
    job = Job(*arguments)
    asyncio.run(job.play())
    return job


@pytest.mark.timeout(300)
def test_a_worker_that_waits_for_room_does_not_take_that_of_the_ranks(seats, tmp_path, monkeypatch):
    async def lose(pool, supervisor):
        assert "pending" in [str(view.state) for view in pool.workers()]

    job = play(tmp_path, monkeypatch, SEATS, lose)
    assert job.placed_after < SOON
    assert job.states.count("serving") == SEATS - 1
    assert "worker_withdrawn" not in job.kinds()


@pytest.mark.timeout(300)
def test_a_worker_that_took_the_room_of_the_ranks_gives_it_back(seats, tmp_path, monkeypatch):
    async def lose(pool, supervisor):
        # As where a worker is replaced before the loss of the ranks is noticed.
        supervisor._reservation.cancel()
        pool.scale(SEATS, "test")
        await until(lambda: pool.alive == SEATS)

    job = play(tmp_path, monkeypatch, SEATS - 1, lose)
    assert job.placed_after < SOON
    assert job.states.count("serving") == SEATS - 1
    events = job.run_dir.events()
    assert [event["worker"] for event in events if event["kind"] == "worker_withdrawn"] == ["rollout-2"]
    assert [event["part"] for event in events if event["kind"] == "room_pending"] == ["learner"]


@pytest.mark.timeout(300)
def test_no_worker_ends_for_ranks_that_no_node_could_hold(seats):
    async def scene():
        events = []
        pool = RolloutPool(WorkerSettings("model", 64), make_worker=make_worker)
        room = Room(pool, lambda kind, **detail: events.append(kind))
        await pool.start(1)
        reservation = Reservation(Bundles(({"seats": SEATS + 1},)))
        room.hold("learner")
        assert not await room.wait("learner", reservation, 2)
        assert await reservation.state() is ReservationState.INFEASIBLE
        assert (pool.alive, events) == (1, ["room_pending"])
        reservation.cancel()
        await pool.stop()

    asyncio.run(scene())


class Scripted:
    """A reservation whose state is what the test sets."""

    needs = "1 seat"

    def __init__(self):
        self.now = ReservationState.WAITING

    async def state(self):
        return self.now


@played
async def test_workers_wait_beside_ranks_for_nodes_that_a_cluster_adds():
    """A cluster that adds nodes on demand has to see all requests; whoever gets the first node, the ranks have it."""
    fleet, reservation = Fleet(), Scripted()
    fleet.room = asyncio.Event()
    room = Room(fleet.pool, lambda kind, **detail: None)
    room.hold("learner")
    fleet.pool.scale(2, "test")
    waiting = asyncio.ensure_future(room.wait("learner", reservation, 60))
    await asyncio.sleep(0.1)
    assert not fleet.handles
    await until(lambda: len(fleet.handles) == 2)
    # A node joins, and the workers are faster.
    fleet.room.set()
    await until(lambda: fleet.kinds()["worker_withdrawn"] == 2)
    reservation.now = ReservationState.GRANTED
    assert await waiting
    await fleet.pool.wait_until_serving(2)
    return fleet


@played
async def test_a_part_that_gets_no_room_in_time_says_so_and_workers_stay_held_for_another_one():
    fleet, reservation = Fleet(), Scripted()
    room = Room(fleet.pool, lambda kind, **detail: None)
    room.hold("learner")
    room.hold("reward")
    fleet.pool.scale(1, "test")
    assert not await room.wait("learner", reservation, 0.2)
    room.release("learner")
    await asyncio.sleep(0.1)
    assert not fleet.handles
    reservation.now = ReservationState.GRANTED
    assert await room.wait("reward", reservation, 0.2)
    await fleet.pool.wait_until_serving(1)
    return fleet


@played
async def test_a_learner_waits_as_long_as_others_use_its_room():
    fleet, reservation = Fleet(), Scripted()
    room = Room(fleet.pool, lambda kind, **detail: None)
    room.hold("learner")
    waiting = asyncio.ensure_future(room.wait("learner", reservation, 0.2, while_others_use_it=True))
    await asyncio.sleep(0.8)
    assert not waiting.done()
    # A node is lost: what is left is too small.
    reservation.now = ReservationState.INFEASIBLE
    assert not await waiting
    return fleet

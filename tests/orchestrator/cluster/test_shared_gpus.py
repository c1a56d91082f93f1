"""A job whose learner and rollout workers share GPUs, on real nodes whose GPUs only Ray counts.

Its workers and ranks are simulated; they are requested, placed and replaced as those of any job.
"""

import asyncio
import time

import pytest
import ray
from support.cluster.node import Node, alive

from learner.errors import LearnerLostError
from orchestrator.display.progress import make_progress
from orchestrator.driver import recovery
from orchestrator.driver.room import Room
from orchestrator.job.demand import cpus_per_worker, gpus_per_worker
from orchestrator.job.spec import JobSpec
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.state import RunState
from protocol.rollout import WorkerSettings
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool import pool as pool_module
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.simulated import SimulatedPace, SimulatedWorker
from rollout_workers.worker.handle import ActorHandle

GPUS = 2
SPEC = JobSpec.model_validate(
    {
        "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 512},
        "data": {"train": "t"},
        "rollout": {"workers": GPUS, "gpus": 0.5, "weight_sync": "cuda_ipc"},
        "learner": {"ranks": GPUS},
        "cluster": {"address": "auto"},
    }
)


def make_actor(**options):
    # Inside a function: Ray's processes cannot import this module.
    class OnGpu(SimulatedWorker):
        def gpus(self):
            return ray.get_runtime_context().get_node_id(), *ray.get_gpu_ids()

    return ray.remote(OnGpu).options(max_concurrency=100, max_restarts=0, **options).remote("w", SimulatedPace())


class Ranks:
    """The learner's ranks."""

    def __init__(self, settings, *, gpus_per_rank, places, **_):
        self.actors = [make_actor(num_cpus=1, num_gpus=gpus_per_rank, scheduling_strategy=place) for place in places]

    async def start(self):
        await asyncio.gather(*(actor.__ray_ready__.remote() for actor in self.actors))

    async def stop(self):
        for actor in self.actors:
            ray.kill(actor)

    async def publish(self, carrier):
        raise NotImplementedError


class Job:
    """A running job. Its scene is played between the start of its first ranks and its end."""

    def __init__(self, folder, monkeypatch, scene, node):
        self.actors, self.scene, self.node, self.attempts = {}, scene, node, 0
        self.run_dir = RunDirectory.create(folder / "run", "name: test\n")
        monkeypatch.setattr(recovery, "LearnerGroup", Ranks)
        monkeypatch.setattr(recovery, "_FIRST_BACK_OFF_SECONDS", 0.01)
        monkeypatch.setattr(pool_module, "start_actor", self._start_actor)

        async def attempt(supervisor, up):
            await up
            self.attempts += 1
            # It is the learner's turn when it starts.
            await self.pool.memory.wake()
            self.pool.memory.allow_starts()
            await self.scene(self)

        monkeypatch.setattr(recovery.LearnerSupervisor, "_run_attempt", attempt)

    def _start_actor(self, name, settings, limits, *, num_cpus, num_gpus, place):
        options = {} if place is None else {"scheduling_strategy": place}
        self.actors[name] = make_actor(num_cpus=num_cpus, num_gpus=num_gpus, **options)
        return ActorHandle(self.actors[name])

    async def play(self):
        self.pool = RolloutPool(
            WorkerSettings("model", 64, max_concurrent=4),
            RolloutLimits(silent_seconds=30, max_restarts=1000),
            cpus_per_worker=cpus_per_worker(SPEC),
            gpus_per_worker=gpus_per_worker(SPEC),
            on_event=self.run_dir.append_event,
            place=lambda *given: room.place_worker(*given),  # noqa: PLW0108 - the room is made below
        )
        room = Room(self.pool, self.run_dir.append_event)
        supervisor = self.supervisor = recovery.LearnerSupervisor(
            Prepared(SPEC, "m", (), (), None, True, 0), self.run_dir, RunState(), make_progress("quiet"), self.pool,
            None, Control(self.run_dir), room,
        )  # fmt: skip
        self.pool.scale(GPUS, "test")
        try:
            await supervisor.run(asyncio.ensure_future(self.pool.wait_started()))
        finally:
            await supervisor.learner.stop()
            await self.pool.stop()
            supervisor._reservation.cancel()

    async def gpus(self):
        """Return the GPU of each worker and of each rank, by number, once all serve."""
        async with asyncio.timeout(90):
            await self.pool.wait_until_serving(self.pool.target)
            workers = [await self.actors[view.name].gpus.remote() for view in self.pool.workers()[: self.pool.target]]
            return workers, [await actor.gpus.remote() for actor in self.supervisor.learner.actors]

    def pids(self):
        return [view.pid for view in self.pool.workers()]

    def kinds(self):
        return [event["kind"] for event in self.run_dir.events()]


@pytest.fixture
def node(cluster):
    """Returns a function that adds a node with two GPUs; removes those that are left."""
    made, before = [], alive()

    def add():
        made.append(Node(cpus=8, gpus=GPUS))
        return made[-1]

    yield add
    for one in made:
        if one.runs:
            one.leave()
    deadline = time.monotonic() + 120
    while alive() > before:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def play(node, tmp_path, monkeypatch):
    """Returns a function that runs a job with a scene, on one node."""

    def run(scene):
        async def whole():
            before, first = alive(), node()
            await first.joined(before + 1)
            job = Job(tmp_path, monkeypatch, scene, first)
            await job.play()
            return job

        return asyncio.run(whole())

    return run


@pytest.mark.timeout(400)
def test_each_gpu_has_one_worker_and_its_rank(play):
    seen = []

    async def scene(job):
        if job.attempts == 2:
            # New ranks in the room of the lost ones; the workers never noticed.
            assert job.pids() == seen.pop()
            assert await job.gpus() == seen[0]
            assert "worker_withdrawn" not in job.kinds()
            return
        workers, ranks = await job.gpus()
        assert workers == ranks
        assert len(set(ranks)) == GPUS
        seen.append((workers, ranks))
        # A lost worker's replacement goes to the same GPU.
        ray.kill(job.actors["rollout-0"])
        while not job.pool.counts["restarts"]:
            await asyncio.sleep(0.05)
        assert await job.gpus() == (workers, ranks)
        # And so does one that joins later.
        job.pool.scale(1, "test")
        async with asyncio.timeout(60):
            while len(job.pool) > 1:
                await asyncio.sleep(0.05)
        job.pool.scale(GPUS, "test")
        assert await job.gpus() == (workers, ranks)
        seen.append(job.pids())
        raise LearnerLostError("killed")

    job = play(scene)
    assert job.attempts == 2
    placed = [event["nodes"] for event in job.run_dir.events() if event["kind"] == "learner_placed"]
    assert placed == [[seen[0][1][0][0]] * GPUS] * 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_nodes_workers_and_ranks_are_together_on_the_next_one(play, node):
    async def scene(job):
        workers, ranks = await job.gpus()
        assert workers == ranks
        assert len(set(ranks)) == GPUS
        if job.attempts == 2:
            return
        before = alive()
        job.node.lose()
        async with asyncio.timeout(120):
            while alive() == before:
                await asyncio.sleep(0.2)
        await node().joined(before)
        raise LearnerLostError("its node was lost")

    job = play(scene)
    assert job.attempts == 2
    assert len({tuple(event["nodes"]) for event in job.run_dir.events() if event["kind"] == "learner_placed"}) == 2

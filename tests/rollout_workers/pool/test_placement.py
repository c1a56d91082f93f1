"""Placement of workers: real Ray actors on nodes that join and leave. The workers are simulated."""

import asyncio
import time

import pytest
import ray

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.rollout import Group, RolloutRequest, Sampling, WorkerSettings
from protocol.weights import WeightUpdate
from rollout_workers.errors import RolloutError
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.simulated import SimulatedPace, SimulatedWorker
from rollout_workers.worker.handle import ActorHandle

SAMPLING = Sampling(group_size=2, max_tokens=8)
PACE = SimulatedPace(group_seconds=0.3, groups_at_once=2)


def alive():
    return sum(node["Alive"] for node in ray.nodes())


@pytest.fixture
def node(cluster):
    """Returns a function that adds nodes; removes those that are left."""
    # Not at the top: actors of this module would import it where Ray starts them.
    from support.cluster.node import Node

    made, before = [], alive()

    def add():
        made.append(Node(ears=1))
        return made[-1]

    yield add
    for one in made:
        if one.runs:
            one.leave()
    # Until Ray knows that a node is gone, it places other tests' actors there.
    deadline = time.monotonic() + 120
    while alive() > before:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def events():
    return []


@pytest.fixture
def pool(cluster, node, run, events, monkeypatch):
    """A pool whose workers need what no node has yet. It ends before its nodes, which then leave at once."""
    monkeypatch.setattr("rollout_workers.pool.worker_life.PENDING_SECONDS", 0.5)

    def make(name):
        options = {"num_cpus": 0, "resources": {"ears": 1}, "max_concurrency": 100, "max_restarts": 0}
        return ActorHandle(ray.remote(SimulatedWorker).options(**options).remote(name, PACE))

    pool = RolloutPool(
        WorkerSettings("model", 64, max_concurrent=4),
        RolloutLimits(silent_seconds=5),
        make_worker=make,
        on_event=lambda kind, **detail: events.append((kind, detail)),
    )
    yield pool
    run(pool.stop())


def questions(count):
    return [
        RolloutRequest(Question("d", i, str(i), "clip.wav", "?", ("a", "b"), "a"), PromptTemplate.ANSWER, seed=i)
        for i in range(count)
    ]


def states(pool):
    return {view.name: str(view.state) for view in pool.workers()}


class Unmakeable:
    def __init__(self):
        raise OSError("no such model")


def test_an_actor_that_cannot_be_made_says_why(cluster, run):
    pool = RolloutPool(
        WorkerSettings("model", 64), make_worker=lambda name: ActorHandle(ray.remote(Unmakeable).remote())
    )
    with pytest.raises(RolloutError, match=r"rollout-0: could not be made: OSError: no such model"):
        run(pool.start(1))


@pytest.mark.timeout(600)
def test_a_worker_waits_for_room_and_a_lost_nodes_work_is_done_elsewhere(pool, node, run, events):
    async def pending():
        pool.scale(1, "by hand")
        futures = [pool.submit(request, SAMPLING) for request in questions(12)]
        while not events or events[-1][0] != "worker_pending":
            await asyncio.sleep(0.05)
        return futures

    futures = run(pending())
    assert states(pool) == {"rollout-0": "pending"}
    assert (len(pool), pool.alive, pool.target) == (1, 0, 1)
    first, nodes = node(), alive()

    async def lose_it():
        await first.joined(nodes + 1)
        await pool.wait_until_serving(1)
        await pool.update(WeightUpdate(4, (), audio_changed=False, nbytes=0))
        await asyncio.sleep(0.4)
        done = sum(future.done() for future in futures)
        where = pool.workers()[0].node
        first.lose()
        while not pool.counts["restarts"]:
            await asyncio.sleep(0.05)
        while alive() > nodes:
            await asyncio.sleep(0.2)
        await node().joined(nodes + 1)
        return done, where

    done, where = run(lose_it())
    assert 0 < done < 12
    lost = next(detail for kind, detail in events if kind == "worker_lost")
    assert lost["node"] == where

    async def finish():
        return await asyncio.gather(*futures)

    answers = run(finish())
    assert [a.question.index for a in answers] == list(range(12))
    assert all(isinstance(a, Group) for a in answers)
    assert answers[-1].weight_version == 4
    (view,) = pool.workers()
    assert (view.state, view.weight_version) == ("serving", 4)
    # More than one if Ray placed the next worker on the lost node too, before it declared it dead.
    assert view.restarts == pool.counts["restarts"] >= 1

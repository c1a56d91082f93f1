"""A pool of real engines that grows, loses each worker in a different way, shrinks to none and grows again.

The tests run in their order, on one pool.
"""

import asyncio
import copy
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from protocol.rollout import Group, Sampling
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.pool import RolloutPool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOLERANCE = 1e-4
LONG = Sampling(group_size=4, max_tokens=60)
SHORT = Sampling(group_size=2, max_tokens=8)


@pytest.fixture(scope="module")
def shared_memory(cluster):
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.fixture(scope="module")
def events():
    return []


@pytest.fixture(scope="module")
def elastic(shared_memory, run, settings, events):
    limits = RolloutLimits(silent_seconds=10, lag_seconds=1, drain_seconds=20)
    pool = RolloutPool(settings, limits, on_event=lambda kind, **detail: events.append((kind, detail)))
    run(pool.start(1))
    yield pool
    run(pool.stop())


@pytest.fixture(scope="module")
def seen():
    """Every process that was part of the pool."""
    return []


def family(view, seen) -> list[psutil.Process]:
    """Return a worker's process and its descendants."""
    processes = [psutil.Process(view.pid), *psutil.Process(view.pid).children(recursive=True)]
    seen.extend(processes)
    return processes


def engine_of(view) -> psutil.Process:
    return max(psutil.Process(view.pid).children(recursive=True), key=lambda p: p.memory_info().rss)


def gone(processes):
    return not psutil.wait_procs(processes, timeout=15)[1]


def moved(tiny, seed):
    other = copy.copy(tiny)
    other.model = copy.deepcopy(tiny.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return other


def check(groups, requests, model, version):
    """Check that every request was answered once, with the newest weights."""
    assert [g.question for g in groups] == [r.question for r in requests]
    for group in groups:
        assert isinstance(group, Group), group
        assert group.weight_version == version
        for completion in group.completions:
            difference = np.abs(np.array(completion.logprobs) - model.logprobs(group, completion, 1.0).numpy()).max()
            assert difference < TOLERANCE, group.worker


def test_a_worker_has_one_engine_process(elastic, seen):
    (view,) = elastic.workers()
    _, *started = family(view, seen)
    assert len([p for p in started if "resource_tracker" not in " ".join(p.cmdline())]) == 1


def test_joining_workers_have_the_newest_weights_and_no_request_waits_for_them(
    elastic, run, requests, tiny, canonical_state, pack_weights
):
    first = moved(tiny, 1)

    async def grow():
        await elastic.update(pack_weights(canonical_state(first.model), 7, audio_changed=True, buckets=2))
        elastic.scale(3, "by hand")
        alone = await elastic.generate(requests, SHORT)
        assert {v.name: str(v.state) for v in elastic.workers()}.items() >= {"rollout-0": "serving"}.items()
        assert elastic.alive == 1
        await elastic.wait_until_serving(3)
        return alone, await elastic.generate(requests * 3, SHORT)

    alone, together = run(grow())
    check(alone, requests, first, 7)
    assert {g.worker for g in alone} == {"rollout-0"}
    check(together, requests * 3, first, 7)
    assert {g.worker for g in together} == {"rollout-0", "rollout-1", "rollout-2"}
    assert [view.weight_version for view in elastic.workers()] == [7, 7, 7]


def test_dead_hung_and_engineless_workers_are_replaced_and_their_requests_answered(
    elastic, run, requests, tiny, canonical_state, pack_weights, events, seen
):
    views = elastic.workers()
    families = [process for view in views for process in family(view, seen)]
    second = moved(tiny, 2)

    async def lose_all():
        futures = [elastic.submit(request, LONG) for request in requests * 3]
        await asyncio.sleep(0.1)
        psutil.Process(views[0].pid).send_signal(signal.SIGKILL)
        psutil.Process(views[1].pid).send_signal(signal.SIGSTOP)
        engine_of(views[2]).send_signal(signal.SIGKILL)
        report = await elastic.update(pack_weights(canonical_state(second.model), 8, audio_changed=True, buckets=2))
        assert report.updated == ()
        answers = await asyncio.gather(*futures)
        await elastic.wait_until_serving(3)
        return answers

    answers = run(lose_all())
    check(answers, requests * 3, second, 8)
    causes = {detail["worker"]: detail["cause"] for kind, detail in events if kind == "worker_lost"}
    assert causes.keys() == {"rollout-0", "rollout-1", "rollout-2"}
    assert "no sign of life" in causes["rollout-1"]
    assert sum(detail["requeued"] for kind, detail in events if kind == "worker_lost") >= len(requests)
    assert elastic.counts["restarts"] == 3
    assert elastic.counts["failed"] == 0
    assert [view.restarts for view in elastic.workers()] == [1, 1, 1]
    assert gone(families)


def test_to_none_with_requests_in_flight_and_back(elastic, run, requests, tiny, events, seen):
    """Leaving workers finish their requests; queued ones are answered by the next worker, with the newest weights."""
    families = [process for view in elastic.workers() for process in family(view, seen)]

    async def vanish():
        futures = [elastic.submit(request, LONG) for request in requests * 7]
        await asyncio.sleep(0.1)
        elastic.scale(0, "by hand")
        await asyncio.to_thread(psutil.wait_procs, families, 30)
        while len(elastic):
            await asyncio.sleep(0.1)
        waiting = sum(not future.done() for future in futures)
        elastic.scale(1, "by hand")
        return waiting, await asyncio.gather(*futures)

    waiting, answers = run(vanish())
    assert waiting > 0
    assert Counter(a.question.index for a in answers) == dict.fromkeys(range(10), 7)
    check(answers, requests * 7, moved(tiny, 2), 8)
    assert [d["target"] for kind, d in events if kind == "scaled"] == [1, 3, 0, 1]
    assert sum(kind == "worker_left" for kind, _ in events) == 3
    assert gone(families)


def test_stop_leaves_nothing(elastic, run, seen, shared_memory):
    for view in elastic.workers():
        if view.state == "serving":
            family(view, seen)
    run(elastic.stop())
    assert gone(seen)
    assert (len(elastic), elastic.alive) == (0, 0)
    left = {path.name for path in Path("/dev/shm").iterdir()} - shared_memory
    assert not {name for name in left if not name.startswith(("plasma", "ray"))}

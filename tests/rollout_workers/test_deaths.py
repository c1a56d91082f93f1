"""However a worker ends, its processes and its shared memory go with it."""

import signal
from pathlib import Path

import psutil
import pytest
import ray

from protocol.rollout import Sampling
from rollout_workers.errors import RolloutError
from rollout_workers.pool import RolloutPool

SAMPLING = Sampling(group_size=2, max_tokens=8)


@pytest.fixture(scope="module")
def shared_memory(cluster):
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.fixture(scope="module")
def doomed(shared_memory, run, settings):
    pool = RolloutPool(settings)
    run(pool.start(3))
    yield pool
    run(pool.stop())


@pytest.fixture(scope="module")
def families(doomed, run):
    """By worker, its process and all it started."""
    return {
        status.worker: [psutil.Process(status.pid), *psutil.Process(status.pid).children(recursive=True)]
        for status in run(doomed.status())
    }


def gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=15)
    return not alive


def test_a_worker_has_one_engine_process(families):
    for _, *started in families.values():
        assert len([p for p in started if "resource_tracker" not in " ".join(p.cmdline())]) == 1


def test_an_engine_dies_with_its_actor(doomed, families, run, requests):
    ray.kill(doomed._workers["rollout-0"])
    assert gone(families["rollout-0"])
    with pytest.raises(RolloutError, match="rollout-0"):
        run(doomed.generate(requests, SAMPLING, by_rule=True))


def test_an_actor_ends_when_its_engine_has_died(doomed, families, run, requests):
    engine = max(families["rollout-1"][1:], key=lambda p: p.memory_info().rss)
    engine.send_signal(signal.SIGKILL)
    with pytest.raises(RolloutError, match="rollout-1"):
        run(doomed._call("rollout-1", "generate", 30, requests, SAMPLING))
    assert gone(families["rollout-1"])


def test_stop_leaves_nothing(doomed, families, run, shared_memory):
    run(doomed.stop())
    assert gone(families["rollout-2"])
    assert len(doomed) == 0
    left = {path.name for path in Path("/dev/shm").iterdir()} - shared_memory
    assert not {name for name in left if not name.startswith(("plasma", "ray"))}

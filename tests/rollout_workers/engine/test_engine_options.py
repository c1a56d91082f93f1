"""Arguments of a job file in a running engine. The tests run in order: the last one ends the engine."""

from dataclasses import replace

import numpy as np
import pytest

from protocol.engine import EngineOptions
from protocol.rollout import Sampling
from rollout_workers.errors import MemoryNotFreedError, WorkerFailedError
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.worker.handle import start_actor

OPTIONS = EngineOptions(enable_prefix_caching=False, block_size=64)


@pytest.fixture(scope="module")
def worker(cluster, run, settings):
    handle = start_actor("options", replace(settings, engine=OPTIONS), RolloutLimits(), num_cpus=0, num_gpus=0)
    run(handle.start())
    yield handle
    handle.kill()


def test_other_blocks_and_no_cached_prefixes_give_the_same_answers(worker, pool: RolloutPool, run, requests):
    sampling = Sampling(group_size=2, max_tokens=16)
    usual = run(pool.generate(requests[:5], sampling))
    for one, two in zip(run(worker.generate(requests[:5], sampling)), usual, strict=True):
        for left, right in zip(one.completions, two.completions, strict=True):
            assert left.token_ids == right.token_ids
            assert np.abs(np.array(left.logprobs) - np.array(right.logprobs)).max() < 1e-4


def test_an_engine_that_cannot_free_memory_says_so(worker, run):
    """It succeeded before, and freed nothing."""
    with pytest.raises(WorkerFailedError, match=f"{MemoryNotFreedError.__name__}.* frees no memory"):
        run(worker.sleep())

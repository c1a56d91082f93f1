"""An engine of two processes, each with half of every layer, is the same model as an engine of one."""

import asyncio
import copy
import os
import signal
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from learner.model.weights import Weight
from learner.weight_sync.shared_memory import SharedMemoryPublisher
from protocol.rollout import Sampling
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.weight_sync.shared_memory import SharedMemorySync

TOLERANCE = 1e-4
SAMPLING = Sampling(group_size=2, max_tokens=12)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class NeverCalled:
    """A learner whose workers are all on its machine."""


def gap(model, groups):
    """Return the largest difference from transformers, and so from an engine of one process."""
    return max(
        np.abs(np.array(c.logprobs) - model.logprobs(g, c, 1.0).numpy()).max() for g in groups for c in g.completions
    )


def moved(tiny, parts, seed):
    other = copy.copy(tiny)
    other.model = copy.deepcopy(tiny.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in other.model.named_parameters():
            if any(part in name for part in parts):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return other


def test_each_process_loads_its_part_of_every_update(
    cluster, run, settings, requests, tiny, canonical_state, pack_weights, descendants
):
    pool = RolloutPool(replace(settings, tensor_parallel=2), RolloutLimits(max_restarts=0))
    memory = SharedMemoryPublisher()
    asked = requests[:5]
    try:
        run(pool.start(1))
        assert gap(tiny, run(pool.generate(asked, SAMPLING))) < TOLERANCE

        # Parts of the layers that vLLM fuses, by the object store.
        parts = ("q_proj", "up_proj", "lm_head", "projector")
        some = moved(tiny, parts, 1)
        state = {n: value for n, value in canonical_state(some.model).items() if any(part in n for part in parts)}
        report = run(pool.update(pack_weights(state, 1, audio_changed=True, buckets=3)))
        assert len(report.updated) == 1, report
        after = run(pool.generate(asked, SAMPLING))
        assert {group.weight_version for group in after} == {1}
        assert gap(some, after) < TOLERANCE
        assert gap(tiny, after) > 0.01

        # The whole model, from shared memory.
        pool.use_weight_sync(SharedMemorySync(NeverCalled()))
        whole = moved(tiny, [""], 2)
        weights = [Weight(n, (torch.nn.Parameter(value),)) for n, value in canonical_state(whole.model).items()]
        update = memory.publish(weights, lambda _: nullcontext(), 2, audio_changed=True, checksums=True)
        report = run(pool.update(update))
        assert len(report.updated) == 1, report
        assert gap(whole, run(pool.generate(asked, SAMPLING))) < TOLERANCE

        (worker,) = pool.workers()
        engine = descendants(worker.pid)
        assert sum("VLLM::Worker_TP" in " ".join(process.cmdline()) for process in engine) == 2
        os.kill(worker.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(engine, timeout=10)
        assert not left
    finally:
        memory.close()

        async def end():
            await asyncio.gather(pool.stop(), return_exceptions=True)

        run(end())

"""vLLM's asynchronous scheduler, which engines on GPUs have: what a pause and a reset do with two batches in flight.

The scheduler is vLLM's own; the batches' results are made up, since vLLM computes none in this way on a CPU.
"""

import pytest
import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from rollout_workers.engine.models import adapt

PROMPT = list(range(10, 50))
BLOCK = 16


@pytest.fixture
def scheduler(tiny) -> AsyncScheduler:
    """A scheduler with one running request, after its prefill and one token, with two batches in flight."""
    adapt()
    arguments = AsyncEngineArgs(str(tiny.folder), max_model_len=256, max_num_batched_tokens=32, block_size=BLOCK)
    config = arguments.create_engine_config()
    config.scheduler_config.async_scheduling = True
    config.cache_config.num_gpu_blocks = 64
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=64, dtype=torch.float32)
    cache = KVCacheConfig(num_blocks=64, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    made = AsyncScheduler(config, cache, StructuredOutputManager(config), block_size=BLOCK, hash_block_size=BLOCK)
    init_none_hash(sha256)
    params = SamplingParams(max_tokens=20, seed=1)
    params.update_from_generation_config({}, 1)
    made.add_request(Request("r", PROMPT, params, None, block_hasher=get_request_block_hasher(BLOCK, sha256)))
    return made


def result(batch: SchedulerOutput, tokens: list[int]) -> ModelRunnerOutput:
    ids = list(batch.num_scheduled_tokens)
    return ModelRunnerOutput(ids, {name: i for i, name in enumerate(ids)}, [tokens for _ in ids])


def sampled(outputs: dict) -> list[int]:
    return [token for one in outputs.values() for output in one.outputs for token in output.new_token_ids]


def in_flight(scheduler: AsyncScheduler) -> tuple[SchedulerOutput, SchedulerOutput]:
    """Compute the prompt, and return the two batches that follow: the second is scheduled before the first is done."""
    for part in (32, 8):
        prefill = scheduler.schedule()
        assert prefill.num_scheduled_tokens == {"r": part}  # chunked
        last = prefill
        if part == 32:
            assert sampled(scheduler.update_from_output(prefill, result(prefill, []))) == []
    following = scheduler.schedule()
    assert sampled(scheduler.update_from_output(last, result(last, [100]))) == [100]
    return following, scheduler.schedule()


def test_a_pause_loses_no_token_of_the_batches_in_flight(scheduler):
    first, second = in_flight(scheduler)
    scheduler.set_pause_state(PauseState.PAUSED_ALL)
    # The engine works on only until its queue of batches is empty: both are processed before the pause is complete,
    # and only then a weight update begins and another label is set.
    assert not scheduler.has_requests()
    assert sampled(scheduler.update_from_output(first, result(first, [101]))) == [101]
    assert sampled(scheduler.update_from_output(second, result(second, [102]))) == [102]
    assert scheduler.schedule().total_num_scheduled_tokens == 0


def test_after_a_reset_the_request_is_computed_again_from_all_its_tokens(scheduler):
    first, second = in_flight(scheduler)
    scheduler.set_pause_state(PauseState.PAUSED_ALL)
    for batch, token in ((first, 101), (second, 102)):
        scheduler.update_from_output(batch, result(batch, [token]))
    assert not scheduler.reset_prefix_cache()  # in use
    assert scheduler.reset_prefix_cache(reset_running_requests=True)
    scheduler.set_pause_state(PauseState.UNPAUSED)
    again = scheduler.schedule()
    # From its first token, in parts: no keys and values of the old weights are left.
    assert again.num_scheduled_tokens == {"r": 32}
    assert again.scheduled_cached_reqs.num_computed_tokens == [0]
    assert again.scheduled_cached_reqs.resumed_req_ids == {"r"}
    assert again.scheduled_cached_reqs.all_token_ids["r"] == [*PROMPT, 100, 101, 102]
    assert again.preempted_req_ids == {"r"}
    rest = scheduler.schedule()
    assert rest.num_scheduled_tokens == {"r": len(PROMPT) + 3 - 32}
    assert sampled(scheduler.update_from_output(again, result(again, []))) == []
    assert sampled(scheduler.update_from_output(rest, result(rest, [103]))) == [103]

"""The memory of ranks and engines, checked by hand and against what was measured on an H200."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.job.memory.activations import MicroBatchSize, activation_bytes
from orchestrator.job.memory.model_states import Buffers
from orchestrator.job.memory.parameters import published_parameters, trained_parameters
from orchestrator.job.memory.published import PUBLISHED
from orchestrator.job.memory.rank import GIB, engine_memory, learner_bytes, rank_memory
from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.spec import JobSpec

ROOT = Path(__file__).parents[4]
LEAST = {"model": {"path": "m", "max_context": 1280}, "data": {"train": "t", "evaluation": "e"}}
SIZES = Sizes(audio_tower=10**8, decoder=10**9, embedding=10**8, head=10**8, audio_tower_width=10, decoder_width=100)
HALF = {"dtype": "bfloat16", "beta": 0}


def job(**sections: Any) -> JobSpec:
    return JobSpec.model_validate({**LEAST, **sections})


def held(**learner: Any) -> int:
    return rank_memory(job(learner=HALF | learner), SIZES).between_steps


def test_bytes_of_a_trained_parameter_by_stage():
    """Two bytes for itself and twelve of optimizer state; stage 1 also holds its gradient in float32 all the time."""
    total, buckets = SIZES.total, 2 * Buffers().reduce
    assert held(zero_stage=1) == (2 + 4 + 12) * total
    assert held(zero_stage=2) == (2 + 12) * total
    assert held(zero_stage=3) == (2 + 4 + 12) * total + buckets
    assert held(zero_stage=1, ranks=4) == (2 + 4 + 3) * total
    assert held(zero_stage=2, ranks=4) == (2 + 3) * total
    assert held(zero_stage=3, ranks=4) == (2 + 4 + 12) * total // 4 + buckets


def test_adapters_have_state_for_themselves_only_and_are_their_own_reference():
    adapters = 16 * 110
    assert held(lora={"rank": 16}, beta=0.04) == 2 * (SIZES.total + adapters) + (4 + 12) * adapters
    assert trained_parameters(job(learner={"lora": {"rank": 16}}), SIZES) == adapters


def test_frozen_parts_have_no_state_and_an_offloaded_optimizer_is_elsewhere():
    frozen = {"train": {"audio_tower": False, "language_model": False}}
    assert held(zero_stage=1, **frozen) == 2 * SIZES.total
    offloaded = rank_memory(job(learner=HALF | {"zero_stage": 3, "offload_optimizer": True}), SIZES)
    assert offloaded.between_steps == 2 * SIZES.total + 2 * Buffers().reduce
    # Master copy, two moments, and the gradients twice.
    assert offloaded.cpu == (12 + 8) * SIZES.total
    both = HALF | {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}
    assert rank_memory(job(learner=both), SIZES).between_steps == 2 * Buffers().reduce


def test_only_reinforcement_learning_with_kl_has_a_reference():
    for method, beta, reference in (("supervised", 0.04, 0), ("reinforce", 0, 0), ("reinforce", 0.04, 4)):
        found = rank_memory(job(method=method, learner={"beta": beta}), SIZES)
        assert found.between_steps == (4 + 8 + reference) * SIZES.total
    assert learner_bytes(job(method="evaluate"), SIZES) == 0


def test_experts_do_not_train_and_are_not_published():
    sizes = PUBLISHED["Qwen3-Omni-30B-A3B-Instruct"]
    trained = trained_parameters(job(), sizes)
    assert trained == published_parameters(job(), sizes) == sizes.total - sizes.experts - sizes.other
    assert trained == pytest.approx(2.18e9, rel=0.01)
    assert sizes.used_decoder + sizes.vocabulary == pytest.approx(3.0e9, rel=0.05)


def test_an_engine_divides_its_weights_among_its_gpus_and_keeps_them_in_cpu_memory_while_it_sleeps():
    one = engine_memory(job(rollout={"gpus": 1}), SIZES)
    assert (one.weights, one.cpu) == (2 * SIZES.total, 0)
    assert engine_memory(job(rollout={"gpus": 4, "tensor_parallel": 4}), SIZES).weights == SIZES.total // 2
    shared = {"gpus": 0.5, "weight_sync": "cuda_ipc"}
    assert engine_memory(job(rollout=shared), SIZES).cpu == 2 * SIZES.total


def test_the_context_of_an_engine_is_its_keys_and_values():
    sizes = PUBLISHED["Qwen2.5-Omni-7B"]
    # 28 layers of 4 heads of 128, keys and values, 2 bytes each.
    assert engine_memory(job(rollout={"gpus": 1}), sizes).context == 1280 * 28 * 4 * 128 * 2 * 2


def test_the_estimate_covers_what_an_h200_needed():
    """`benchmarks.learner_seven_billion`: 16 questions with clips of 20 s and 8 answers of 24 tokens.

    The estimate is for clips of 30 s; here for the micro-batches of that benchmark, of 16 rows at most.
    """
    result = json.loads((ROOT / "benchmarks" / "results" / "learner_seven_billion.json").read_text())
    sizes = PUBLISHED["Qwen2-Audio-7B-Instruct"]
    row, positions = 500 + 30 + 8 * 24, 1000
    for batch in result["details"]["batches"]:
        if batch["compiled"]:
            continue
        learner = HALF | {"zero_stage": 1, "lora": {"rank": 16}, "beta": 0.04}
        spec = job(learner=learner | {"micro_batch_tokens": batch["micro_batch_tokens"]})
        rows = min(16, batch["micro_batch_tokens"] // row)
        size = MicroBatchSize(rows * row, round(rows * positions / 1500))
        estimate = (rank_memory(spec, sizes).between_steps + activation_bytes(spec, sizes, size)) / GIB
        assert 1.0 <= estimate / batch["peak_gib"] <= 1.15

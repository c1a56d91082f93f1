"""A worker that takes whole batches, from start to end. The tests run in order."""

import copy
from dataclasses import replace

import numpy as np
import psutil
import pytest
import ray
import torch

from learner.checkpoint.export import write_checkpoint
from learner.families.qwen2_audio import Qwen2Audio
from protocol.rollout import Sampling
from rollout_workers.errors import RolloutError
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.pool import RolloutPool

TOLERANCE = 1e-4
SAMPLING = Sampling(group_size=4, max_tokens=16)


@pytest.fixture(scope="module")
def other(make_tiny):
    return make_tiny(1)


@pytest.fixture(scope="module")
def alone(cluster, run, settings, other):
    pool = RolloutPool(replace(settings, model=str(other.folder), whole_batches=True), RolloutLimits(max_restarts=0))
    run(pool.start(1))
    yield pool
    run(pool.stop())


def without_origin(groups):
    return [replace(g, worker="", weight_version=0) for g in groups]


def test_updated_weights_answer_as_freshly_loaded_ones(alone, pool, publisher, run, requests, other, canonical_state):
    run(pool.generate(requests, SAMPLING, round_robin=True))
    publisher.publish(canonical_state(other.model), audio_changed=True)
    updated = run(pool.generate(requests, SAMPLING, round_robin=True))
    fresh = run(alone.generate(requests, SAMPLING, round_robin=True))
    for one, two in zip(updated, fresh, strict=True):
        assert [c.token_ids for c in one.completions] == [c.token_ids for c in two.completions]
        for left, right in zip(one.completions, two.completions, strict=True):
            assert np.abs(np.array(left.logprobs) - np.array(right.logprobs)).max() < 1e-5


def test_a_whole_batch_gives_the_same_bits_again(alone, run, requests):
    sampling = Sampling(group_size=8, max_tokens=32)
    first = run(alone.generate(requests, sampling, round_robin=True))
    run(alone.generate(requests[3:], sampling, round_robin=True))
    for _ in range(3):
        assert run(alone.generate(requests, sampling, round_robin=True)) == first


def test_parameters_that_are_not_sent_stay_unchanged(alone, run, requests, other, canonical_state, pack_weights):
    """Also inside the layers that vLLM fuses: every update sends a few parameters, and the others keep their values."""
    now = copy.copy(other)
    now.model = copy.deepcopy(other.model)
    parameters = dict(now.model.named_parameters())
    language, audio = "model.language_model.layers", "model.audio_tower.layers"
    for version, names in enumerate(
        [
            [f"{language}.0.self_attn.q_proj.weight"],
            [f"{language}.1.self_attn.k_proj.bias"],
            [f"{language}.1.mlp.up_proj.weight", f"{language}.0.input_layernorm.weight"],
            [f"{audio}.0.self_attn_layer_norm.bias", f"{audio}.1.fc1.weight", f"{audio}.0.self_attn.v_proj.bias"],
            ["lm_head.weight"],
            ["model.language_model.embed_tokens.weight"],
        ],
        start=1,
    ):
        before = canonical_state(copy.deepcopy(now.model))
        with torch.no_grad():
            for name in names:
                parameters[name].add_(torch.randn_like(parameters[name]) * 0.05)
        state = {k: v for k, v in canonical_state(now.model).items() if not torch.equal(v, before[k])}
        assert len(state) == len(names)
        run(alone.update(pack_weights(state, version, audio_changed=True, buckets=len(names))))
        groups = run(alone.generate(requests[:5], SAMPLING, round_robin=True))
        for group in groups:
            for completion in group.completions:
                difference = np.abs(np.array(completion.logprobs) - now.logprobs(group, completion, 1.0).numpy()).max()
                assert difference < TOLERANCE, names


def test_an_update_that_fails_ends_the_worker(alone, run, other, canonical_state, pack_weights):
    """One byte differs from what the learner sent."""
    (view,) = alone.workers()
    family = [psutil.Process(view.pid), *psutil.Process(view.pid).children(recursive=True)]
    update = pack_weights(canonical_state(other.model), 9, audio_changed=True, buckets=3)
    middle = update.buckets[1]
    arrays = [array.copy() for array in ray.get(middle.data)]
    arrays[2][5] ^= 1
    wrong = replace(update, buckets=(update.buckets[0], replace(middle, data=ray.put(arrays)), update.buckets[2]))
    report = run(alone.update(wrong))
    assert (report.updated, report.late) == ((), ())
    assert f"the bytes of {middle.slots[2].name} that arrived are not those" in report.dropped["rollout-0"]
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    with pytest.raises(RolloutError, match=rf"rollout-0: .*{middle.slots[2].name}.*max_restarts is 0") as raised:
        run(alone.wait_until_serving(1))
    assert raised.value.worker == "rollout-0"


@pytest.mark.slow
def test_weights_that_are_not_finite_end_the_start_and_name_the_model(cluster, run, settings, tiny, tmp_path):
    """Also in the audio tower, which text alone does not pass."""
    broken = copy.deepcopy(tiny.model)
    with torch.no_grad():
        dict(broken.named_parameters())["model.audio_tower.layers.0.fc1.weight"].view(-1)[0] = torch.nan
    write_checkpoint(tmp_path / "nan", Qwen2Audio(), broken, tiny.processor)
    pool = RolloutPool(replace(settings, model=str(tmp_path / "nan")), RolloutLimits(max_restarts=0))
    with pytest.raises(
        RolloutError, match=r"model '.*/nan', weight version 0: the log-probability of token 1 of 1 is nan"
    ):
        run(pool.start(1))

"""Weight updates of running engines: all parameters, some of them, and parts of vLLM's fused layers."""

import copy

import numpy as np
import pytest
import torch

from learner.weight_sync import shared_memory
from protocol.rollout import Sampling
from protocol.weights import Carrier

TOLERANCE = 1e-4
SAMPLING = Sampling(group_size=4, max_tokens=16)


def changed(tiny, names, seed=1):
    """The tiny model with the parameters whose canonical names contain one of `names` changed."""
    other = copy.copy(tiny)
    other.model = copy.deepcopy(tiny.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in other.model.named_parameters():
            if any(part in name for part in names):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return other


def difference(tiny, groups):
    return max(
        np.abs(np.array(c.logprobs) - tiny.logprobs(g, c, 1.0).numpy()).max() for g in groups for c in g.completions
    )


@pytest.fixture
def ask(pool, run, requests):
    return lambda: run(pool.generate(requests[:5], SAMPLING, round_robin=True))


def test_all_parameters(publisher, ask, tiny, canonical_state):
    before = ask()
    other = changed(tiny, [""])
    version = publisher.publish(canonical_state(other.model), audio_changed=True)
    after = ask()
    assert {g.weight_version for g in after} == {version}
    assert {g.weight_version for g in before} == {version - 1}
    assert difference(other, after) < TOLERANCE
    assert difference(tiny, after) > 0.01


def test_the_language_model_alone(publisher, ask, tiny, canonical_state):
    ask()
    other = changed(tiny, ["language_model", "lm_head"])
    state = {k: v for k, v in canonical_state(other.model).items() if k.startswith("language_model.")}
    publisher.publish(state, audio_changed=False)
    assert difference(other, ask()) < TOLERANCE


@pytest.mark.parametrize("part", ["audio_tower", "multi_modal_projector"])
def test_the_audio_side_for_clips_in_the_cache(publisher, ask, tiny, canonical_state, part):
    ask()
    other = changed(tiny, [part])
    state = {k: v for k, v in canonical_state(other.model).items() if k.startswith(part)}
    publisher.publish(state, audio_changed=True)
    after = ask()
    assert difference(other, after) < TOLERANCE
    assert difference(tiny, after) > 0.01


def test_many_updates_with_layers_cut_between_buckets(publisher, ask, tiny, canonical_state):
    for seed in range(1, 6):
        other = changed(tiny, [""], seed)
        publisher.publish(canonical_state(other.model), audio_changed=True, buckets=7 * seed)
    assert difference(other, ask()) < TOLERANCE


def test_banned_tokens_are_never_sampled_however_likely(publisher, pool, run, requests, tiny, canonical_state):
    loud = copy.copy(tiny)
    loud.model = copy.deepcopy(tiny.model)
    audio, padding = tiny.processor.audio_token_id, tiny.model.config.text_config.vocab_size - 1
    assert {audio, padding} <= set(tiny.banned)
    with torch.no_grad():
        # For any hidden state, one of two opposite rows has a large logit.
        direction = torch.randn(tiny.model.lm_head.weight.shape[1], generator=torch.Generator().manual_seed(0)) * 6
        loud.model.lm_head.weight[audio] = direction
        loud.model.lm_head.weight[padding] = -direction
    publisher.publish(
        {"language_model.lm_head.weight": canonical_state(loud.model)["language_model.lm_head.weight"]},
        audio_changed=False,
    )
    for sampling in (Sampling(8, 24), Sampling(1, 24, 0.0), Sampling(4, 24, 0.7)):
        groups = run(pool.generate(requests, sampling))
        for group in groups:
            for completion in group.completions:
                assert not set(completion.token_ids) & set(tiny.banned)
                expected = loud.logprobs(group, completion, sampling.temperature).numpy()
                assert np.abs(np.array(completion.logprobs) - expected).max() < TOLERANCE
        likely = loud.logits(groups[0], groups[0].completions[0]).argmax(-1)
        assert np.isin(likely, tiny.banned).mean() > 0.8


@pytest.mark.parametrize("publisher", [Carrier.SHARED_MEMORY], indirect=True)
def test_announced_weights_are_taken_without_a_call(publisher, pool, run, ask, tiny, canonical_state, monkeypatch):
    monkeypatch.setattr(shared_memory, "PATIENCE_SECONDS", 60.0)
    publisher.publish(canonical_state(tiny.model), audio_changed=True)
    other = changed(tiny, [""])
    update = run(publisher.offer(canonical_state(other.model), audio_changed=True))
    assert update.held_by == {"rollout-0", "rollout-1"}
    after = ask()
    assert {g.weight_version for g in after} == {update.version}
    assert difference(other, after) < TOLERANCE
    publisher.version += 1
    publisher._share(canonical_state(tiny.model), publisher.version, audio_changed=True, buckets=0)
    statuses = [run(member.handle.heartbeat()) for member in pool._workers.serving]
    assert {status.weight_version for status in statuses} == {publisher.version}, "though nobody told the pool"
    assert difference(tiny, ask()) < TOLERANCE

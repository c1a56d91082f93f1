"""A frozen audio tower runs once per clip, and its outputs are never used for another clip or another tower."""

import pytest
import torch
from support.learner import counts_of, parameters_of

from learner.model.audio_cache import AudioCache, clip_digest, tower_digest
from learner.model.packing import EncodedPrompt


def prompt(value: float) -> EncodedPrompt:
    mel = torch.full((2, 8), value)
    return EncodedPrompt((1,), mel, 8, clip_digest(mel, 8))


def encode(prompts, at_least):
    return [p.mel.sum() * torch.ones(3, 4) for p in prompts]


def test_each_clip_is_encoded_once():
    memory = AudioCache(limit_bytes=10_000)
    for values in ((1.0, 2.0, 1.0), (2.0, 3.0)):
        found = memory.get([prompt(v) for v in values], encode, len)
        assert [float(f[0, 0]) for f in found] == [16 * v for v in values]
    assert memory.encoded_clips == 3


def test_the_least_recently_used_are_evicted():
    memory = AudioCache(limit_bytes=2 * 3 * 4 * 4)
    memory.get([prompt(1.0), prompt(2.0)], encode, len)
    memory.get([prompt(1.0), prompt(3.0)], encode, len)
    assert memory.encoded_clips == 3
    memory.get([prompt(1.0)], encode, len)
    assert memory.encoded_clips == 3
    memory.get([prompt(2.0)], encode, len)
    assert memory.encoded_clips == 4


def test_outputs_on_disk_are_read_by_later_processes(tmp_path):
    AudioCache(limit_bytes=1000, folder=tmp_path / "tower").get([prompt(1.0), prompt(2.0)], encode, len)
    later = AudioCache(limit_bytes=1000, folder=tmp_path / "tower")
    found = later.get([prompt(2.0), prompt(1.0)], encode, len)
    assert [float(f[0, 0]) for f in found] == [32, 16]
    assert later.encoded_clips == 0
    assert not list((tmp_path / "tower").glob("*.tmp"))


def test_digests_distinguish_clips_and_towers():
    mel = torch.rand(2, 8)
    names = {clip_digest(mel, 8), clip_digest(mel, 7), clip_digest(mel + 1e-6, 8)}
    assert len(names) == 3
    tower = torch.nn.Linear(2, 2)
    before = tower_digest(tower)
    with torch.no_grad():
        tower.weight[0, 0] += 1e-3
    assert tower_digest(tower) != before


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_caching_a_frozen_tower_changes_nothing(make_rank, groups, tmp_path, zero_stage):
    """Policy and reference share the outputs for four clips over two steps; the update equals that without cache."""
    frozen = {"train": {"audio_tower": False}, "beta": 0.04, "zero_stage": zero_stage}
    cached = make_rank(**frozen, audio_cache={"folder": str(tmp_path)})
    uncached = make_rank(**frozen, audio_cache={"memory_gib": 0})
    for _ in range(2):
        for rank in (cached, uncached):
            rank.learn(groups, counts_of(groups))
    assert cached._trainer.policy.audio_cache is cached._trainer.reference.audio_cache
    assert cached._trainer.policy.audio_cache.encoded_clips == 4
    assert uncached._trainer.policy.audio_cache.encoded_clips > 8
    expected, found = parameters_of(uncached), parameters_of(cached)
    assert max(float((expected[n] - found[n]).abs().max()) for n in expected) < 1e-6
    again = make_rank(**frozen, audio_cache={"folder": str(tmp_path)})
    again.learn(groups, counts_of(groups))
    assert again._trainer.policy.audio_cache.encoded_clips == 0

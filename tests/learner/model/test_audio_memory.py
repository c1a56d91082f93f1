"""A frozen audio tower runs once a clip, and what it made is never taken for another clip's or another tower's."""

import pytest
import torch
from support.learner import counts_of, parameters_of

from learner.model.audio_memory import AudioMemory, clip_digest, tower_digest
from learner.model.packing import EncodedPrompt


def prompt(value: float) -> EncodedPrompt:
    mel = torch.full((2, 8), value)
    return EncodedPrompt((1,), mel, 8, clip_digest(mel, 8))


def encode(prompts):
    return [p.mel.sum() * torch.ones(3, 4) for p in prompts]


def test_each_clip_is_encoded_once():
    memory = AudioMemory(limit_bytes=10_000)
    for values in ((1.0, 2.0, 1.0), (2.0, 3.0)):
        found = memory.get([prompt(v) for v in values], encode)
        assert [float(f[0, 0]) for f in found] == [16 * v for v in values]
    assert memory.encoded_clips == 3


def test_the_oldest_make_room():
    memory = AudioMemory(limit_bytes=2 * 3 * 4 * 4)
    memory.get([prompt(1.0), prompt(2.0)], encode)
    memory.get([prompt(1.0), prompt(3.0)], encode)
    assert memory.encoded_clips == 3
    memory.get([prompt(1.0)], encode)
    assert memory.encoded_clips == 3
    memory.get([prompt(2.0)], encode)
    assert memory.encoded_clips == 4


def test_the_disk_outlives_the_process(tmp_path):
    AudioMemory(limit_bytes=1000, folder=tmp_path / "tower").get([prompt(1.0), prompt(2.0)], encode)
    later = AudioMemory(limit_bytes=1000, folder=tmp_path / "tower")
    found = later.get([prompt(2.0), prompt(1.0)], encode)
    assert [float(f[0, 0]) for f in found] == [32, 16]
    assert later.encoded_clips == 0
    assert not list((tmp_path / "tower").glob("*.tmp"))


def test_clips_and_towers_are_told_apart():
    mel = torch.rand(2, 8)
    names = {clip_digest(mel, 8), clip_digest(mel, 7), clip_digest(mel + 1e-6, 8)}
    assert len(names) == 3
    tower = torch.nn.Linear(2, 2)
    before = tower_digest(tower)
    with torch.no_grad():
        tower.weight[0, 0] += 1e-3
    assert tower_digest(tower) != before


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_frozen_tower_is_kept_and_changes_nothing(make_rank, groups, tmp_path, zero_stage):
    """Policy and reference share what it made of four clips, over two steps; the update is that of a tower run anew."""
    frozen = {"train": {"audio_tower": False}, "beta": 0.04, "zero_stage": zero_stage}
    kept = make_rank(**frozen, audio_cache={"folder": str(tmp_path)})
    anew = make_rank(**frozen, audio_cache={"memory_gib": 0})
    for _ in range(2):
        for rank in (kept, anew):
            rank.learn(groups, counts_of(groups))
    assert kept._trainer.policy.memory is kept._trainer.reference.memory
    assert kept._trainer.policy.memory.encoded_clips == 4
    assert anew._trainer.policy.memory.encoded_clips > 8
    expected, found = parameters_of(anew), parameters_of(kept)
    assert max(float((expected[n] - found[n]).abs().max()) for n in expected) < 1e-6
    again = make_rank(**frozen, audio_cache={"folder": str(tmp_path)})
    again.learn(groups, counts_of(groups))
    assert again._trainer.policy.memory.encoded_clips == 0

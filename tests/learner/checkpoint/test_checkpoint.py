"""A learner that resumes from a checkpoint continues bit for bit, whichever configuration wrote the checkpoint."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.learner import STEADY, counts_of, parameters_of
from transformers import Qwen2AudioForConditionalGeneration

from learner.checkpoint.checkpoint import CheckpointError
from learner.messages import PhaseSettings

# The schedule decays, so a wrong counter is visible, and so is Adam's bias correction in three updates after two.
PHASE = PhaseSettings(
    STEADY.model_copy(update={"schedule": "linear", "warmup_steps": 1}), total_steps=6, max_tokens=10, beta=0.04
)
SETTINGS = [
    {"zero_stage": 0},
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 3},
    {"dtype": "bfloat16"},
    {"zero_stage": 3, "dtype": "bfloat16"},
    {"zero_stage": 2, "offload_optimizer": True},
    {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
    {"lora": {"rank": 4, "alpha": 8}},
    {"train": {"audio_tower": False}},
]


def ids(settings):
    return ",".join(f"{k}={v}" for k, v in settings.items())


def save(rank, folder: Path) -> Path:
    folder.mkdir()
    rank.save(str(folder), state=True)
    rank.wait_saved()
    rank.check_saved(str(folder))
    return folder


def step(rank, groups, number: int) -> None:
    """Take a step whose batch differs from the other steps' in the order of the groups and in the advantages."""
    batch = groups[number % 4 :] + groups[: number % 4]
    batch = [
        replace(g, completions=tuple(replace(c, advantage=c.advantage * (1 + number)) for c in g.completions))
        for g in batch
    ]
    assert rank.learn(batch, counts_of(groups)).updates == 1


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_resumed_training_is_bit_for_bit_the_same(make_rank, groups, tmp_path, settings):
    straight = make_rank(PHASE, **settings)
    for number in range(2):
        step(straight, groups, number)
    saved = save(straight, tmp_path / "step-2")
    for number in range(2, 5):
        step(straight, groups, number)
    resumed = make_rank(PHASE, resume=str(saved), **settings)
    assert resumed.engine.step_count == 2
    for number in range(2, 5):
        step(resumed, groups, number)
    expected, found = parameters_of(straight), parameters_of(resumed)
    differing = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert not differing


@pytest.mark.parametrize("settings", [SETTINGS[i] for i in (0, 2, 3, 8)], ids=ids)
def test_a_trial_before_the_first_step_changes_nothing(make_rank, groups, tmp_path, settings):
    tried, plain = make_rank(PHASE, **settings), make_rank(PHASE, **settings)
    save(tried, tmp_path / "trial")
    for number in range(2):
        for rank in (tried, plain):
            step(rank, groups, number)
    expected, found = parameters_of(plain), parameters_of(tried)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.parametrize("writer", [{"zero_stage": 0}, {"zero_stage": 3}], ids=ids)
@pytest.mark.parametrize("reader", [{"zero_stage": 0}, {"zero_stage": 2}, {"zero_stage": 3}], ids=ids)
def test_any_zero_stage_reads_what_any_wrote(make_rank, groups, tmp_path, writer, reader):
    straight = make_rank(PHASE, **writer)
    step(straight, groups, 0)
    saved = save(straight, tmp_path / "step-1")
    step(straight, groups, 1)
    resumed = make_rank(PHASE, resume=str(saved), **reader)
    step(resumed, groups, 1)
    expected, found = parameters_of(straight), parameters_of(resumed)
    assert max(float((expected[n] - found[n]).abs().max()) for n in expected) < 2e-6


def test_a_checkpoint_before_the_first_update(make_rank, groups, tmp_path):
    """There are no moments yet, but the schedule has advanced."""
    rank = make_rank(PHASE)
    rank.skip(1)
    saved = save(rank, tmp_path / "step-1")
    resumed = make_rank(PHASE, resume=str(saved))
    assert resumed.engine.step_count == 1
    for one in (rank, resumed):
        step(one, groups, 0)
    expected, found = parameters_of(rank), parameters_of(resumed)
    assert all(torch.equal(expected[n], found[n]) for n in expected)


def test_training_continues_while_a_checkpoint_is_written(make_rank, groups, tmp_path):
    """The checkpoint has the model at the time of the call, not at the time of writing."""
    rank = make_rank(PHASE)
    step(rank, groups, 0)
    before = parameters_of(rank)
    (tmp_path / "step-1").mkdir()
    rank.save(str(tmp_path / "step-1"), state=True)
    step(rank, groups, 1)
    rank.wait_saved()
    saved = load_file(tmp_path / "step-1" / "model.safetensors")
    assert all(torch.equal(saved[name], value.cpu()) for name, value in before.items())


def test_a_failed_write_is_an_error(make_rank, tmp_path):
    rank = make_rank(PHASE)
    rank.save(str(tmp_path / "missing"), state=False)
    with pytest.raises(Exception, match="missing"):
        rank.wait_saved()
    assert rank.is_saving() is False


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train": {"audio_tower": False}}, "too many"),
        ({"lora": {"rank": 4, "alpha": 8}}, "are missing"),
    ],
    ids=["another part", "adapters"],
)
def test_state_of_other_parameters_is_refused(make_rank, groups, tmp_path, settings, words):
    saved = save(make_rank(PHASE), tmp_path / "step-0")
    with pytest.raises(CheckpointError, match=words):
        make_rank(PHASE, resume=str(saved), **settings)


def test_a_checkpoint_without_its_state_is_refused(make_rank, tmp_path):
    saved = save(make_rank(PHASE), tmp_path / "step-0")
    shutil.rmtree(saved / "training_state")
    with pytest.raises(CheckpointError, match="step-0"):
        make_rank(PHASE, resume=str(saved))


def test_adapters_are_merged_into_checkpoints(make_rank, tiny_folder, groups, tmp_path):
    """transformers loads the merged checkpoint, which has the same scores as the policy with its adapters."""
    rank = make_rank(PHASE, lora={"rank": 4, "alpha": 8})
    assert {n for n, p in rank._model.named_parameters() if p.requires_grad} == {
        n for n, _ in rank._model.named_parameters() if ".lora_" in n
    }
    for number in range(2):
        step(rank, groups, number)
    saved = save(rank, tmp_path / "step-2")
    model, report = Qwen2AudioForConditionalGeneration.from_pretrained(
        saved, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    before = Qwen2AudioForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32)
    changed = [n for (n, a), b in zip(model.named_parameters(), before.parameters(), strict=True) if not a.equal(b)]
    assert any("audio_tower" in n for n in changed)
    assert any("language_model" in n for n in changed)
    with_adapters = rank.score(groups)
    merged = make_rank(folder=saved).score(groups)
    plain = make_rank().score(groups)

    def gap(one, other):
        return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))

    assert gap(with_adapters, merged) < 1e-5
    assert gap(with_adapters, plain) > 1e-3


def test_the_reference_of_adapters_is_the_model_without_them(make_rank, groups):
    """No second model is loaded. The KL is zero before the first step and positive after it."""
    rank = make_rank(PHASE, lora={"rank": 4, "alpha": 8}, beta=0.04)
    assert rank._trainer.reference is None
    kls = [rank.learn(groups, counts_of(groups)).kl for _ in range(2)]
    assert kls[0] == pytest.approx(0, abs=1e-7)
    assert kls[1] > 1e-6

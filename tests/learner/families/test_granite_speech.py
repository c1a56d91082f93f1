"""Granite Speech: features without torchaudio, no dropout in training, statistics that stay, counted windows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.families.tiny import write_tiny
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from audio_qa.granite_processor import MelSpectrogram, mel_filters
from audio_qa.model_folder.documents import ModelError
from audio_qa.model_folder.folder import check_folder
from audio_qa.processor import load_processor
from learner.families.registry import FAMILIES
from learner.model.loading import load_model
from learner.model.weights import weights_of

GRANITE = FAMILIES["granite_speech"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny("granite_speech", tmp_path / "model")


def test_the_mel_spectrogram_is_that_of_another_implementation():
    samples = np.random.default_rng(0).standard_normal(20_001).astype(np.float32) * 0.1
    filters = mel_filter_bank(257, 80, 0.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    assert np.allclose(mel_filters(257, 80, 16_000).numpy(), filters, atol=1e-5)
    window = window_function(400, "hann", periodic=True)
    expected = spectrogram(samples, window, 400, 160, fft_length=512, power=2.0, mel_filters=filters)
    found = MelSpectrogram(16_000, 512, 400, 160, 80)(torch.from_numpy(samples)[None])[0].numpy()
    assert found.shape == expected.shape == (80, 20_001 // 160 + 1)
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_the_features_of_a_clip_are_pairs_of_frames_side_by_side(folder):
    processor = load_processor(str(folder))
    outputs = processor(
        text=["<|audio|>"], audio=[np.ones(9_999, np.float32)], sampling_rate=16_000, return_tensors="pt"
    )
    mel, frames = GRANITE.features(outputs)
    assert mel.shape == (80, frames) == (80, 62)
    pairs = outputs["input_features"][0]
    assert torch.equal(torch.cat([mel[:, 2], mel[:, 3]]), pairs[1])
    assert (outputs["input_ids"] == GRANITE.audio_token_id(load_model(GRANITE, str(folder), "float32"))).sum() == 9


def test_training_has_neither_dropout_nor_statistics_of_its_own(folder):
    """The configuration sets dropout, as published, and rollout workers apply none."""
    config = json.loads((folder / "config.json").read_text())
    assert config["encoder_config"]["dropout"] == config["projector_config"]["hidden_dropout_prob"] == 0.1
    model = load_model(GRANITE, str(folder), "float32")
    assert model.training
    mels = [torch.randn(80, 90), torch.randn(80, 90)]
    before = {weight.name: weight.value().clone() for weight in weights_of(GRANITE, model)}
    found = [GRANITE.project(model, torch.cat(GRANITE.encode(model.train(), mels, [90, 90]))) for _ in range(2)]
    assert torch.equal(*found) and found[0].requires_grad
    assert found[0].shape == (18, 128)
    after = {weight.name: weight.value() for weight in weights_of(GRANITE, model)}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.allclose(found[0][:9], GRANITE.project(model, GRANITE.encode(model, mels[:1], [90])[0]), atol=1e-5)


def test_statistics_are_written_and_never_sent(folder):
    stored = load_file(folder / "model.safetensors")
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    statistics = {f"encoder.layers.{i}.conv.batch_norm.{kind}" for i in range(2) for kind in kinds}
    assert statistics <= stored.keys()
    weights = {weight.name: weight for weight in weights_of(GRANITE, load_model(GRANITE, str(folder), "bfloat16"))}
    assert statistics == {name for name, weight in weights.items() if not weight.trainable}
    assert weights["encoder.layers.0.conv.batch_norm.num_batches_tracked"].value().dtype is torch.int64


@pytest.mark.parametrize(("key", "value"), [("window_size", 20), ("downsample_rate", 3)])
def test_other_windows_are_refused(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ModelError, match=f"{key} is {value}, and Earshot counts"):
        check_folder(str(folder))


def test_an_adapter_in_the_folder_is_refused(folder):
    """Granite Speech 3.3 has its language model's adapter beside it."""
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter .*merge it into its base model"):
        check_folder(str(folder))

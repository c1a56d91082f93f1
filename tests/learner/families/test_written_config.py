"""The config.json of a checkpoint is that of its model folder but for what training, or the family, changes."""

import json
from pathlib import Path

import pytest
from support.families.tiny import TINY, write_tiny
from transformers import AutoConfig

from audio_qa.processor import load_processor
from learner.checkpoint.source import SourceFiles
from learner.families.registry import family_of
from learner.model.loading import load_model

ARCHITECTURES = {
    "qwen2_audio": "Qwen2AudioForConditionalGeneration",
    "qwen2_5_omni": "Qwen2_5OmniForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeForConditionalGeneration",
    "audioflamingo3": "AudioFlamingo3ForConditionalGeneration",
    "glmasr": "GlmAsrForConditionalGeneration",
    "granite_speech": "GraniteSpeechForConditionalGeneration",
}


@pytest.fixture(params=list(TINY))
def folder(request, tmp_path) -> Path:
    return write_tiny(request.param, tmp_path / "model")


def written(folder: Path, to: Path) -> dict:
    family = family_of(str(folder))
    model = load_model(family, str(folder), "bfloat16")
    to.mkdir()
    SourceFiles.read(str(folder)).write(to, family, model)
    return json.loads((to / "config.json").read_text())


def without_types(value):
    """Return a configuration without the types of weights."""
    if not isinstance(value, dict):
        return value
    return {k: without_types(v) for k, v in value.items() if k not in ("dtype", "torch_dtype")}


def test_nothing_else_changes(folder, tmp_path):
    source = json.loads((folder / "config.json").read_text()) | {"house": {"rule": 1}, "architectures": None}
    (folder / "config.json").write_text(json.dumps(source))
    config = written(folder, tmp_path / "written")
    assert config["architectures"] == [ARCHITECTURES[config["model_type"]]]
    assert without_types(config) == without_types(source | {"architectures": config["architectures"]})
    again = AutoConfig.from_pretrained(tmp_path / "written")
    assert str(again.dtype) == "torch.bfloat16"
    assert load_processor(str(tmp_path / "written")).chat_template == load_processor(str(folder)).chat_template


def test_omni_stays_without_a_voice_and_ties_alike_in_both_libraries(tmp_path):
    folder = write_tiny("qwen2_5_omni", tmp_path / "model")
    source = json.loads((folder / "config.json").read_text())
    thinker = source["thinker_config"]
    # What vLLM reads, transformers does not, and the other way round.
    thinker["text_config"].pop("tie_word_embeddings", None)
    thinker["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(source | {"enable_audio_output": True, "talker_config": {}}))
    config = written(folder, tmp_path / "written")
    assert config["enable_audio_output"] is False
    assert config["thinker_config"]["text_config"]["tie_word_embeddings"] is False
    assert config["thinker_config"]["tie_word_embeddings"] is False

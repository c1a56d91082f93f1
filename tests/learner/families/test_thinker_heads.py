"""The heads of Qwen2.5-Omni and Qwen3-Omni: the weights decide whether they are the embedding, on both sides.

Folders differ in which of two settings they have, and what an absent one means differs between libraries and models.
"""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.families.tiny import write_tiny

from audio_qa.families import facts_of
from audio_qa.model_folder.folder import check_folder
from learner.families.registry import family_of
from learner.model.loading import load_model
from rollout_workers.engine.models import config_overrides

HEAD = "thinker.lm_head.weight"
TIE = "tie_word_embeddings"


def folder_with(path: Path, model_type: str, *, stored: bool, thinker: bool | None, text: bool | None) -> Path:
    """Write a tiny model with these settings, None for one that is absent, and with or without a head of its own."""
    folder = write_tiny(model_type, path)
    config = json.loads((folder / "config.json").read_text())
    for section, value in ((config["thinker_config"], thinker), (config["thinker_config"]["text_config"], text)):
        section.pop(TIE, None)
        if value is not None:
            section[TIE] = value
    (folder / "config.json").write_text(json.dumps(config))
    if not stored:
        weights = load_file(folder / "model.safetensors")
        save_file({n: w for n, w in weights.items() if n != HEAD}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("model_type", ["qwen2_5_omni", "qwen3_omni_moe"])
@pytest.mark.parametrize(
    ("stored", "thinker", "text"),
    [
        *((True, thinker, text) for thinker in (None, True) for text in (None, True, False)),
        (False, None, True),
        (False, True, None),
        (False, True, True),
    ],
)
def test_a_head_is_tied_unless_it_is_stored(tmp_path, model_type, stored, thinker, text):
    folder = str(folder_with(tmp_path / "model", model_type, stored=stored, thinker=thinker, text=text))
    check_folder(folder)
    model = load_model(family_of(folder), folder, "float32")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is not stored
    assert model.config.tie_word_embeddings is not stored
    told = config_overrides(folder, facts_of(folder))["thinker_config"]
    assert told == {TIE: not stored, "text_config": {TIE: not stored}}


def test_other_families_are_told_nothing(tmp_path):
    folder = str(write_tiny("audioflamingo3", tmp_path / "model"))
    assert config_overrides(folder, facts_of(folder)) == {}

"""Families whose language model alone says whether the head is the embedding: vLLM's rule, also in the learner."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families.glm_asr import glm_model, glm_processor
from support.families.granite_speech import granite_model, granite_processor

from audio_qa.model_folder.documents import ModelError
from audio_qa.model_folder.folder import check_folder
from learner.checkpoint.export import write_checkpoint
from learner.checkpoint.source import SourceFiles
from learner.families.registry import FAMILIES, family_of
from learner.model.loading import load_model
from learner.model.weights import weights_of

HEAD, EMBEDDING = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
MAKERS = {"glmasr": (glm_processor, glm_model), "granite_speech": (granite_processor, granite_model)}


@pytest.fixture(params=MAKERS)
def made(request, tmp_path):
    """Return a function that writes a checkpoint with a head of its own, or without one."""

    def make(tied: bool) -> Path:
        new_processor, new_model = MAKERS[request.param]
        processor = new_processor()
        model = new_model(processor, tied=tied)
        if not tied:
            torch.nn.init.normal_(model.lm_head.weight)
        write_checkpoint(tmp_path / "model", FAMILIES[request.param], model, processor)
        return tmp_path / "model"

    return make


def change(folder: Path, *, whole: bool | None, text: bool) -> None:
    """Set `tie_word_embeddings` of the whole model, or leave it to its default, and that of the language model."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    if whole is not None:
        config["tie_word_embeddings"] = whole
    config["text_config"]["tie_word_embeddings"] = text
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("tied", "whole"), [(True, None), (True, False), (False, None)])
def test_the_language_models_setting_counts(made, tied: bool, whole: bool | None, tmp_path: Path):
    folder = made(tied)
    change(folder, whole=whole, text=tied)
    check_folder(str(folder))
    family = family_of(str(folder))
    model = load_model(family, str(folder), "float32")
    assert (model.lm_head.weight is family.decoder(model).embed_tokens.weight) is tied
    assert (HEAD in {weight.name for weight in weights_of(family, model)}) is not tied
    (tmp_path / "written").mkdir()
    SourceFiles.read(str(folder)).write(tmp_path / "written", family, model)
    written = json.loads((tmp_path / "written" / "config.json").read_text())
    assert written.get("tie_word_embeddings", True) is written["text_config"]["tie_word_embeddings"] is tied


def test_equal_weights_are_not_tied_without_the_setting(made):
    """vLLM would not tie them, and the learner would send it only one."""
    folder = made(False)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {HEAD: tensors[EMBEDDING].clone()}, folder / "model.safetensors", {"format": "pt"})
    change(folder, whole=True, text=False)
    model = load_model(family_of(str(folder)), str(folder), "float32")
    assert torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)
    assert model.lm_head.weight is not model.model.language_model.embed_tokens.weight


def test_a_head_that_the_rollout_workers_would_leave_out_is_refused(made):
    folder = made(False)
    change(folder, whole=None, text=True)
    with pytest.raises(ModelError, match="has a head that is not the embedding"):
        load_model(family_of(str(folder)), str(folder), "float32")


def test_a_missing_head_is_refused(made):
    folder = made(True)
    change(folder, whole=True, text=False)
    with pytest.raises(ModelError, match=r"lack 1 weights .* such as language_model\.lm_head\.weight"):
        check_folder(str(folder))

"""Every family: checkpoints that other libraries load, parts that train, parts that stay fixed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families.qwen2_5_omni import omni_config, omni_processor
from support.families.tiny import TINY, write_tiny
from transformers import (
    AutoConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from audio_qa.families import FACTS
from audio_qa.omni_processor import OmniProcessor
from learner.checkpoint.export import write_checkpoint
from learner.families.family import Part
from learner.families.registry import FAMILIES, family_of
from learner.model.loading import ModelError, attend_by_rows, load_model, load_processor
from learner.model.lora import add_adapters, freeze
from learner.model.weights import weights_of
from learner.settings import LoraSettings, TrainSettings

OMNI = FAMILIES["qwen2_5_omni"]
CHAT = [{"role": "user", "content": [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": "What?"}]}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return {model_type: write_tiny(model_type, home / model_type) for model_type in TINY}


@pytest.fixture(params=TINY)
def folder(request, folders) -> Path:
    return folders[request.param]


def test_learner_and_rollout_workers_have_the_same_families():
    assert FAMILIES.keys() == FACTS.keys() == TINY.keys()


def test_transformers_loads_checkpoints_without_missing_or_unknown_names(folder):
    family = family_of(str(folder))
    model, report = family.model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    written = load_file(folder / "model.safetensors")
    for weight in weights_of(family, model):
        assert torch.equal(weight.value(), written.pop(weight.name))
    assert not written


def test_a_written_processor_behaves_the_same(folder, tmp_path):
    """It has the same chat template, token ids and features."""
    processor = load_processor(str(folder))
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    inputs = [torch.randn(20_000, generator=torch.Generator().manual_seed(0)).numpy()]
    write_checkpoint(tmp_path / "again", family_of(str(folder)), load_model_of(folder), processor)
    again = load_processor(str(tmp_path / "again"))
    assert again.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False) == text
    one, two = (p(text=[text], audio=inputs, sampling_rate=16_000, return_tensors="pt") for p in (processor, again))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    name = json.loads((tmp_path / "again" / "processor_config.json").read_text())["processor_class"]
    assert name in (
        "Qwen2AudioProcessor",
        "Qwen2_5OmniProcessor",
        "Qwen3OmniMoeProcessor",
        "AudioFlamingo3Processor",
        "GlmAsrProcessor",
        "GraniteSpeechProcessor",
    )


def load_model_of(folder: Path):
    return load_model(family_of(str(folder)), str(folder), "float32")


@pytest.mark.parametrize("part", list(TrainSettings.model_fields))
def test_a_part_trains_alone_and_fixed_parts_never_train(folder, part):
    family, model = family_of(str(folder)), load_model_of(folder)
    settings = TrainSettings.model_validate({name: name == part for name in TrainSettings.model_fields})
    freeze(family, model, settings)
    trained = {family.part(name) for name, p in family.named_parameters(model) if p.requires_grad}
    assert trained == {Part(part)}


def test_adapters_are_on_trainable_parts_and_merge_to_the_same_names(folder):
    family, model = family_of(str(folder)), load_model_of(folder)
    before = {w.name: w.value().clone() for w in weights_of(family, model)}
    train = TrainSettings()
    freeze(family, model, train)
    add_adapters(family, model, LoraSettings(rank=2, alpha=4), train)
    weights = weights_of(family, model)
    assert [w.name for w in weights] == list(before)
    assert all(torch.equal(w.value(), before[w.name]) for w in weights)
    adapted = {family.part(w.name) for w in weights if w.trainable}
    assert adapted == set(Part) - {Part.FIXED}


def test_sliding_windows_are_refused(folder):
    family = family_of(str(folder))
    model, _ = family.load(str(folder), torch.float32)
    config = family.decoder(model).config
    config.layer_types = ["sliding_attention"] + ["full_attention"] * (config.num_hidden_layers - 1)
    with pytest.raises(ModelError, match="sliding window"):
        attend_by_rows(family, model)


def test_omni_counts_tokens_in_time_height_and_width(folders):
    """Positions equal those of transformers for a prompt with audio and text."""
    model, processor = load_model_of(folders["qwen2_5_omni"]), load_processor(str(folders["qwen2_5_omni"]))
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    made = processor(text=[text], audio=[torch.randn(20_000).numpy()], sampling_rate=16_000, return_tensors="pt")
    expected, deltas = model.get_rope_index(
        made["input_ids"],
        attention_mask=made["attention_mask"],
        audio_seqlens=made["feature_attention_mask"].sum(-1),
    )
    positions = torch.arange(made["input_ids"].shape[1])[None]
    assert torch.equal(OMNI.position_ids(positions), expected)
    # A completion continues the positions of the prompt.
    assert deltas.tolist() == [[0]]


def test_omni_ignores_the_talker(folders, tmp_path):
    """A published folder has one. It is neither loaded nor written, and audio output is off in what is written."""
    full = tmp_path / "full"
    full.mkdir()
    for path in folders["qwen2_5_omni"].iterdir():
        (full / path.name).write_bytes(path.read_bytes())
    config = json.loads((full / "config.json").read_text())
    (full / "config.json").write_text(json.dumps(config | {"enable_audio_output": True}))
    tensors = load_file(full / "model.safetensors")
    save_file(tensors | {"talker.model.norm.weight": torch.ones(4)}, full / "model.safetensors", {"format": "pt"})
    model = load_model_of(full)
    write_checkpoint(tmp_path / "written", OMNI, model, load_processor(str(full)))
    assert load_file(tmp_path / "written" / "model.safetensors").keys() == tensors.keys()
    assert all(name.startswith(OMNI.facts.weights) for name in tensors)
    with torch.device("meta"):
        whole = Qwen2_5OmniForConditionalGeneration(AutoConfig.from_pretrained(tmp_path / "written"))
    assert not whole.has_talker
    assert {name for name, _ in whole.named_parameters()} == tensors.keys()


def test_omni_ties_its_head_in_both_libraries_or_in_none(tmp_path):
    processor = omni_processor()
    for tied in (True, False):
        config = omni_config(processor)
        config.tie_word_embeddings = tied
        folder = tmp_path / str(tied)
        write_checkpoint(folder, OMNI, Qwen2_5OmniThinkerForConditionalGeneration(config), processor)
        assert AutoConfig.from_pretrained(folder).thinker_config.text_config.tie_word_embeddings is tied
        assert ("thinker.lm_head.weight" in load_file(folder / "model.safetensors")) is not tied
        model = load_model_of(folder)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_omni_reads_the_processor_of_a_published_folder(folders, tmp_path):
    """Published folders have the settings of images and audio in one file, and the chat template in another."""
    tiny = folders["qwen2_5_omni"]
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    settings = json.loads((tiny / "processor_config.json").read_text())
    flat = {**settings["image_processor"], **settings["feature_extractor"], "processor_class": "Qwen2_5OmniProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(flat))
    template = (tiny / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    processor = load_processor(str(tmp_path))
    assert isinstance(processor, OmniProcessor)
    assert processor.chat_template == template
    found = processor.feature_extractor.to_dict()
    assert {name: found[name] for name in settings["feature_extractor"]} == settings["feature_extractor"]
    # With torchvision, transformers' own class finds the settings for videos in the written files.
    processor.save_pretrained(tmp_path / "written")
    written = json.loads((tmp_path / "written" / "processor_config.json").read_text())
    assert written["video_processor"]["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert written["video_processor"]["merge_size"] == settings["image_processor"]["merge_size"]

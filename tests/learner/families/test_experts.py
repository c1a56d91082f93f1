"""Qwen3-Omni's experts: their names and values in a checkpoint, that they stay as they are, and what they cost."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.families.qwen3_omni import omni3_config, omni3_processor
from support.families.tiny import write_tiny
from transformers import AutoConfig, Qwen3OmniMoeForConditionalGeneration, Qwen3OmniMoeThinkerForConditionalGeneration

from audio_qa.model_folder.documents import ModelError
from audio_qa.model_folder.folder import check_folder
from audio_qa.omni_processor import Omni3Processor
from learner.checkpoint.export import write_checkpoint
from learner.families.family import Part
from learner.families.registry import FAMILIES
from learner.model.flops import DecoderFlops
from learner.model.loading import load_model, load_processor
from learner.model.lora import add_adapters, freeze
from learner.model.weights import weights_of
from learner.settings import LoraSettings, TrainSettings

FAMILY = FAMILIES["qwen3_omni_moe"]
CHAT = [{"role": "user", "content": [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": "What?"}]}]
LAYER = "thinker.model.layers.1.mlp."


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiny("qwen3_omni_moe", tmp_path_factory.mktemp("models") / "omni")


def loaded(folder: Path):
    return load_model(FAMILY, str(folder), "float32")


def test_experts_have_the_names_of_the_published_layout_and_their_own_values(folder):
    """Three matrices for each expert, as vLLM loads them; transformers 5 keeps two tensors for a layer."""
    written, block = load_file(folder / "model.safetensors"), loaded(folder).model.layers[1].mlp
    names = {f"{LAYER}experts.{e}.{m}_proj.weight" for e in range(8) for m in ("gate", "up", "down")}
    assert {name for name in written if name.startswith(LAYER)} == names | {f"{LAYER}gate.weight"}
    for e in range(8):
        gate, up, down = (written[f"{LAYER}experts.{e}.{m}_proj.weight"] for m in ("gate", "up", "down"))
        assert torch.equal(block.experts.gate_up_proj[e], torch.cat([gate, up]))
        assert torch.equal(block.experts.down_proj[e], down)


def test_sizes_of_the_weights_follow_from_their_part(folder):
    weights = {weight.name: weight for weight in weights_of(FAMILY, loaded(folder))}
    for weight in weights.values():
        assert weight.shape == tuple(weight.value().shape)
        assert weight.nbytes == weight.value().nbytes
    assert weights[f"{LAYER}experts.3.up_proj.weight"].shape == (64, 128)
    assert weights[f"{LAYER}experts.3.down_proj.weight"].shape == (128, 64)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=4)], ids=["full", "adapters"])
def test_experts_and_routers_stay_as_they_are(folder, lora):
    model, train = loaded(folder), TrainSettings()
    freeze(FAMILY, model, train)
    if lora:
        add_adapters(FAMILY, model, lora, train)
    trained = {weight.name for weight in weights_of(FAMILY, model) if weight.trainable}
    assert not {name for name in trained if ".mlp." in name}
    assert f"{LAYER.removesuffix('mlp.')}self_attn.q_proj.weight" in trained
    parts = {FAMILY.part(f"{LAYER}{name}") for name in ("gate.weight", "experts.gate_up_proj", "experts.down_proj")}
    assert parts == {Part.FIXED}


def test_a_token_costs_the_experts_that_it_takes(folder):
    model = loaded(folder)
    attention = sum(p.numel() for n, p in model.model.named_parameters() if n.endswith("_proj.weight"))
    # Two of eight experts, three matrices of 128 x 64, two layers.
    assert DecoderFlops.of(model.model).per_token == 2 * (attention + 2 * 3 * 128 * 64 * 2)


def test_tokens_are_counted_in_time_height_and_width(folder):
    model, processor = loaded(folder), load_processor(str(folder))
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    made = processor(text=[text], audio=[torch.randn(20_000).numpy()], sampling_rate=16_000, return_tensors="pt")
    lengths = made["feature_attention_mask"].sum(-1)
    expected, deltas = model.get_rope_index(
        made["input_ids"], attention_mask=made["attention_mask"], audio_seqlens=lengths
    )
    assert torch.equal(FAMILY.position_ids(torch.arange(made["input_ids"].shape[1])[None]), expected.long())
    assert deltas.tolist() == [[0]]


def test_clips_are_encoded_together_as_each_alone(folder):
    """Also clips below one second, whose ends the convolutions would hear differently next to longer ones."""
    model, lengths = loaded(folder).eval(), (37, 250, 100, 137, 60, 2, 200)
    clips = [torch.randn(64, frames, generator=torch.Generator().manual_seed(frames)) for frames in lengths]
    with torch.no_grad():
        together = FAMILY.encode(model, clips, lengths)
        for clip, encoded in zip(clips, together, strict=True):
            alone = model.audio_tower(clip, feature_lens=torch.tensor([clip.shape[1]])).last_hidden_state
            assert len(encoded) == FAMILY.facts.audio_tokens(clip.shape[1])
            assert (FAMILY.project(model, encoded) - alone).abs().max() < 1e-5


def test_an_incomplete_frame_is_filled_up(folder):
    """As in vLLM: the class of transformers would drop it, and with it a token every eighth time."""
    processor = load_processor(str(folder))
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    clip = torch.randn(16_001, generator=torch.Generator().manual_seed(0)).numpy()
    made = processor(text=[text], audio=[clip], sampling_rate=16_000, return_tensors="pt")
    assert int(made["feature_attention_mask"].sum()) == 101
    assert made["input_ids"][0].tolist().count(processor.tokenizer.convert_tokens_to_ids("<|audio_pad|>")) == 14


def test_the_whole_model_of_transformers_has_the_same_names_without_a_voice(folder):
    with torch.device("meta"):
        whole = Qwen3OmniMoeForConditionalGeneration(AutoConfig.from_pretrained(folder))
    assert not whole.has_talker
    stored = {own for name, parameter in whole.named_parameters() for own, _ in FAMILY.stored(name, parameter.shape)}
    assert stored == load_file(folder / "model.safetensors").keys()


def test_the_head_is_tied_in_both_libraries_or_in_none(tmp_path):
    processor = omni3_processor()
    for tied in (True, False):
        config = omni3_config(processor)
        config.tie_word_embeddings = tied
        folder = tmp_path / str(tied)
        write_checkpoint(folder, FAMILY, Qwen3OmniMoeThinkerForConditionalGeneration(config), processor)
        assert AutoConfig.from_pretrained(folder).thinker_config.text_config.tie_word_embeddings is tied
        assert ("thinker.lm_head.weight" in load_file(folder / "model.safetensors")) is not tied
        model = loaded(folder)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_the_processor_of_a_published_folder_is_read(folder, tmp_path):
    """Published folders have the settings of images and audio in one file, and the chat template in another."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    settings = json.loads((folder / "processor_config.json").read_text())
    flat = {**settings["image_processor"], **settings["feature_extractor"], "processor_class": "Qwen3OmniMoeProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(flat))
    template = (folder / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    processor = load_processor(str(tmp_path))
    assert isinstance(processor, Omni3Processor)
    assert processor.chat_template == template


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("audio_config", {"n_window": 100}, "n_window is 100"),
        ("text_config", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("text_config", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        ("text_config", {"num_experts": 9}, "lack 6 weights"),
        ("text_config", {"moe_intermediate_size": 32}, r"experts\.0\.gate_proj"),
        ("text_config", {"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size"),
    ],
)
def test_what_only_one_side_would_compute_is_refused(folder, tmp_path, section, change, says):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["thinker_config"][section] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=says):
        check_folder(str(tmp_path))

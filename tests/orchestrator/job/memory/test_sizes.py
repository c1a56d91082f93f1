"""Published sizes, compared with the models that transformers builds from the published configurations."""

from collections import Counter
from typing import Any

import pytest
import torch
import transformers as t

from audio_qa.families import FACTS
from orchestrator.job.memory import sizes
from orchestrator.job.memory.published import PUBLISHED


def omni(hidden: int, inner: int, layers: int, heads: int, key_heads: int, vocabulary: int) -> Any:
    text = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }
    vision = {"hidden_size": 1280, "out_hidden_size": hidden, "depth": 32, "intermediate_size": 3420}
    config = t.Qwen2_5OmniThinkerConfig(audio_config={"output_dim": hidden}, vision_config=vision, text_config=text)
    return t.Qwen2_5OmniThinkerForConditionalGeneration(config)


def omni_3() -> Any:
    text = {
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 152_064,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    }
    config = t.Qwen3OmniMoeThinkerConfig(
        audio_config={"output_dim": 2048}, vision_config={"out_hidden_size": 2048}, text_config=text
    )
    return t.Qwen3OmniMoeThinkerForConditionalGeneration(config)


def audio() -> Any:
    text = {
        "model_type": "qwen2",
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 156_032,
    }
    return t.Qwen2AudioForConditionalGeneration(t.Qwen2AudioConfig(text_config=text))


MODELS = {
    "Qwen2-Audio-7B-Instruct": audio,
    "Qwen2.5-Omni-3B": lambda: omni(2048, 11_008, 36, 16, 2, 151_936),
    "Qwen2.5-Omni-7B": lambda: omni(3584, 18_944, 28, 28, 4, 152_064),
    "Qwen3-Omni-30B-A3B-Instruct": omni_3,
}
PARTS = (
    ("other", (".visual.", "visual.")),
    ("experts", (".mlp.experts.", ".mlp.gate.")),
    ("projector", ("audio_tower.proj", "multi_modal_projector")),
    ("audio_tower", ("audio_tower",)),
    ("embedding", ("embed_tokens",)),
    ("head", ("lm_head",)),
)


@pytest.mark.parametrize("name", MODELS)
def test_published_sizes_are_those_of_the_published_configuration(name):
    with torch.device("meta"):
        model = MODELS[name]()
    counted: Counter[str] = Counter()
    for weight, parameter in model.named_parameters():
        part = next((part for part, marks in PARTS if any(mark in weight for mark in marks)), "decoder")
        counted[part] += parameter.numel()
    sizes = PUBLISHED[name]
    for part, number in counted.items():
        # Qwen2.5-Omni's tower also has two embeddings, which are not used.
        assert getattr(sizes, part) == pytest.approx(number, rel=2e-5), part
    assert sizes.total == pytest.approx(sum(counted.values()), rel=1e-6)


def test_the_published_models_have_the_sizes_their_makers_state():
    """Without talkers, whose sizes are counted in the names on the Hub."""
    assert PUBLISHED["Qwen2-Audio-7B-Instruct"].total == pytest.approx(8.397e9, rel=1e-3)
    assert PUBLISHED["Qwen3-Omni-30B-A3B-Thinking"].total == pytest.approx(31.7e9, rel=1e-2)


def test_a_gate_of_another_part_says_nothing_about_experts():
    found = sizes._sizes(FACTS["qwen3_omni_moe"], [("thinker.visual.blocks.0.mlp.gate.weight", (), 1)])
    assert (found.other, found.expert_share) == (1, 0)

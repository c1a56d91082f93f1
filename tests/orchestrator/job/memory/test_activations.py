"""The estimate of what layers keep for their backward pass, compared with what autograd saves on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2Config, Qwen2DecoderLayer, Qwen2RotaryEmbedding
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoderConfig, Qwen2AudioEncoderLayer

from learner.families.registry import family_of
from learner.model.head import CHUNK_ELEMENTS
from learner.model.loading import load_model
from learner.model.packing import EncodedPrompt, make_rows, pack
from learner.model.policy import Policy
from orchestrator.job.memory.activations import (
    HEAD_LOGITS,
    LOGIT_BYTES,
    PER_TOWER_WIDTH,
    PER_WIDTH,
    MicroBatchSize,
    activation_bytes,
    largest_micro_batch,
)
from orchestrator.job.memory.sizes import Sizes, sizes_of
from orchestrator.job.spec import JobSpec

TOKENS = 64
LEAST: dict[str, Any] = {"model": {"path": "m", "max_context": 2048}, "data": {"train": "t"}}


def job(**sections: Any) -> JobSpec:
    return JobSpec.model_validate({**LEAST, **sections})


def saved_bytes(module: nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Return the bytes of all storages that the backward pass of `forward` needs, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        out = forward()
    total = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    out.float().sum().backward()
    return total


def width_of(module: nn.Module) -> int:
    return sum(sum(p.shape) for p in module.parameters() if p.ndim == 2)


@pytest.mark.parametrize(
    ("hidden", "inner", "heads", "key_heads"),
    [(512, 1376, 4, 4), (896, 4736, 7, 1), (512, 2752, 4, 1)],
    ids=["Qwen2-Audio-7B", "Qwen2.5-Omni-7B", "Qwen2.5-Omni-3B"],
)
def test_a_decoder_layer_keeps_what_is_estimated(hidden, inner, heads, key_heads):
    """Layers with the proportions of the published ones."""
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        num_hidden_layers=1,
        attn_implementation="sdpa",
    )
    layer = Qwen2DecoderLayer(config, 0).to(torch.bfloat16)
    x = torch.randn(1, TOKENS, hidden, dtype=torch.bfloat16, requires_grad=True)
    positions = Qwen2RotaryEmbedding(config)(x, torch.arange(TOKENS)[None])
    found = saved_bytes(layer, lambda: layer(x, position_embeddings=positions)) / TOKENS
    assert 0.9 <= found / (2 * PER_WIDTH * width_of(layer)) <= 1.05


def test_a_layer_of_the_audio_tower_keeps_what_is_estimated():
    config = Qwen2AudioEncoderConfig(d_model=320, encoder_attention_heads=5, encoder_ffn_dim=1280)
    config._attn_implementation = "sdpa"
    layer = Qwen2AudioEncoderLayer(config).to(torch.bfloat16)
    x = torch.randn(1, TOKENS, 320, dtype=torch.bfloat16, requires_grad=True)

    def forward() -> torch.Tensor:
        out = layer(x, None)
        return out if isinstance(out, torch.Tensor) else out[0]

    assert 0.85 <= saved_bytes(layer, forward) / TOKENS / (2 * PER_TOWER_WIDTH * width_of(layer)) <= 1.05


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_whole_model_keeps_no_more_than_is_estimated(tiny_folder, recomputed):
    """The decoder, the audio tower and the head, with a clip; checkpointing must reach both kinds of layers."""
    family = family_of(str(tiny_folder))
    model = load_model(family, str(tiny_folder), "float32")
    if recomputed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = Policy(family, model)
    audio, frames = 24, 96
    ids = (7, *[family.audio_token_id(model)] * audio, 8, 9)
    prompt = EncodedPrompt(ids, torch.randn(64, frames + 4), frames)
    rows = make_rows([prompt], [[(11,) * 12] * 2], shared=[True])
    batch = pack(rows, family.audio_token_id(model))
    found = saved_bytes(policy, lambda: policy(batch)[0])
    spec = job(learner={"dtype": "float32", "activation_checkpointing": recomputed})
    sizes = sizes_of(Path(tiny_folder))
    # The estimate counts a clip of 30 s.
    full = MicroBatchSize(len(rows[0]), 1)
    without = job(learner={"dtype": "float32", "activation_checkpointing": recomputed, "train": {"audio_tower": False}})
    tower = (activation_bytes(spec, sizes, full) - activation_bytes(without, sizes, full)) * 2 * audio / 1500
    logits = LOGIT_BYTES * len(rows[0]) * sizes.tokens
    estimate = activation_bytes(without, sizes, full) + tower
    assert found <= estimate
    # No mere upper bound; logits exist for completions only, and a layer that is recomputed is not yet there.
    assert found >= (0.2 if recomputed else 0.4) * (estimate - logits)


def test_the_largest_row_counts_where_it_is_larger_than_a_micro_batch():
    sizes = Sizes(hidden=8)
    rollout = {"group_size": 8, "max_tokens": 1024}
    assert largest_micro_batch(job(rollout=rollout), sizes).tokens == 16_384
    small = {"micro_batch_tokens": 4096}
    # A prompt of at most 1024 tokens, and 8 completions of 1024.
    # The row has one clip; four short ones fit into a micro-batch.
    assert largest_micro_batch(job(rollout=rollout, learner=small), sizes) == MicroBatchSize(1024 + 8 * 1024, 4)
    plain = largest_micro_batch(job(rollout=rollout, learner=small | {"share_prefix": "never"}), sizes)
    assert plain == MicroBatchSize(4096, 4)


def test_logits_are_bounded_by_the_heads_pieces():
    assert HEAD_LOGITS == CHUNK_ELEMENTS
    sizes = Sizes(hidden=8, head=8 * 150_000)
    few, many = (activation_bytes(job(), sizes, MicroBatchSize(tokens, 1)) for tokens in (100, 100_000))
    assert few == LOGIT_BYTES * 100 * 150_000
    assert many == LOGIT_BYTES * HEAD_LOGITS

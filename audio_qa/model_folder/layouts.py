"""The names of the weights in each family's checkpoint, and their shapes, a letter for each axis.

Decoder: H hidden size, I inner size, V vocabulary, Q and K rows of queries and keys, A a head's size, E experts, X an
expert's inner size. Encoder: D width, F inner size, M mel bins, P positions, C channels of convolutions. A digit is a
size itself. A letter without a size in config.json takes it from the first weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DECODER = {"embed_tokens.weight": "VH", "norm.weight": "H"}
"""The decoder's weights outside its layers; most families'."""
DECODER_LAYER = {
    "input_layernorm.weight": "H",
    "post_attention_layernorm.weight": "H",
    **{f"self_attn.{name}_proj.weight": f"{rows}H" for name, rows in (("q", "Q"), ("k", "K"), ("v", "K"))},
    **{f"self_attn.{name}_proj.bias": rows for name, rows in (("q", "Q"), ("k", "K"), ("v", "K"))},
    "self_attn.o_proj.weight": "HQ",
    "mlp.gate_proj.weight": "IH",
    "mlp.up_proj.weight": "IH",
    "mlp.down_proj.weight": "HI",
}
"""A decoder layer of Qwen2."""
WHISPER = {"conv1.weight": "DM3", "conv1.bias": "D", "conv2.weight": "DD3", "conv2.bias": "D"}
"""The convolutions of Whisper's encoder."""
WHISPER_LAYER = {
    **{f"{norm}.{kind}": "D" for norm in ("self_attn_layer_norm", "final_layer_norm") for kind in ("weight", "bias")},
    **{f"self_attn.{name}_proj.weight": "DD" for name in ("q", "k", "v", "out")},
    **{f"self_attn.{name}_proj.bias": "D" for name in ("q", "v", "out")},
    "fc1.weight": "FD",
    "fc1.bias": "F",
    "fc2.weight": "DF",
    "fc2.bias": "D",
}
"""A layer of Whisper's encoder."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of the weights in a family's checkpoint, and the shapes of those that differ between families."""

    projector: Mapping[str, str]
    """Shape of each linear layer by name."""
    decoder: str = "language_model.model."
    """Prefix of the language model's names."""
    head: str = "language_model.lm_head.weight"
    tower: str = "audio_tower."
    """Prefix of the audio tower's names."""
    other_parts: bool = False
    """The checkpoint has weights that audio questions do not use, such as a vision tower's."""
    can_tie: bool = False
    """The head may be the embedding: learner and rollout workers agree on it."""
    ties_by_text: bool = False
    """The language model's configuration alone says whether it is (`learner.families.tied_head`)."""
    tower_ends: Mapping[str, str] = field(
        default_factory=lambda: {"embed_positions.weight": "PD", "layer_norm.weight": "D", "layer_norm.bias": "D"}
    )
    """The tower's positions and last normalisation."""
    tower_start: Mapping[str, str] = field(default_factory=lambda: WHISPER)
    """The tower's convolutions."""
    tower_layer: Mapping[str, str] = field(default_factory=lambda: WHISPER_LAYER)
    decoder_ends: Mapping[str, str] = field(default_factory=lambda: DECODER)
    decoder_layer: Mapping[str, str] = field(default_factory=lambda: DECODER_LAYER)
    query_former: str = ""
    """Prefix of the names of a Q-Former before the projector's linear layers (`query_former`), if it has one."""
    expert: Mapping[str, str] = field(default_factory=dict)
    """One expert of a decoder layer, as many as config.json says (`num_experts`); empty for a dense decoder."""
    only: Mapping[tuple[str, str], object] = field(default_factory=dict)
    """Section and key of settings of which learner and rollout workers know one value only, which is the default."""


_QWEN3_LAYER = {
    **{
        name: shape
        for name, shape in DECODER_LAYER.items()
        if not name.endswith(".bias") and not name.startswith("mlp.")
    },
    "self_attn.q_norm.weight": "A",
    "self_attn.k_norm.weight": "A",
}
"""A decoder layer of Qwen3, without its MLP."""
_CONVOLUTIONS_2D = {
    "conv2d1.weight": "C133",
    **{f"conv2d{i}.weight": "CC33" for i in (2, 3)},
    **{f"conv2d{i}.bias": "C" for i in (1, 2, 3)},
    "conv_out.weight": "DW",
}
"""The start of Qwen3-Omni's audio tower: W is the channels times the mel bins that are left."""
_PLAIN_LAYER = {name: shape for name, shape in DECODER_LAYER.items() if not name.endswith(".bias")}
"""A decoder layer of Llama and of Granite."""
_GLM_TOWER_LAYER = {
    **{
        f"{norm}.{kind}": "D" for norm in ("input_layernorm", "post_attention_layernorm") for kind in ("weight", "bias")
    },
    **{f"self_attn.{name}_proj.weight": "DD" for name in ("q", "k", "v", "o")},
    **{f"self_attn.{name}_proj.bias": "D" for name in ("q", "v", "o")},
    **{f"mlp.{name}": shape for name, shape in WHISPER_LAYER.items() if name.startswith("fc")},
}
"""A layer of GLM-ASR's encoder."""
_GRANITE_TOWER_LAYER = {
    **{f"{part}.pre_norm.{kind}": "D" for part in ("ff1", "attn", "ff2") for kind in ("weight", "bias")},
    **{f"{part}.up_proj.weight": "FD" for part in ("ff1", "ff2")},
    **{f"{part}.up_proj.bias": "F" for part in ("ff1", "ff2")},
    **{f"{part}.down_proj.weight": "DF" for part in ("ff1", "ff2")},
    **{f"{part}.down_proj.bias": "D" for part in ("ff1", "ff2")},
    "attn.to_q.weight": "ND",
    "attn.to_kv.weight": "WD",
    "attn.to_out.weight": "DN",
    "attn.to_out.bias": "D",
    "attn.rel_pos_emb.weight": "PB",
    **{f"conv.norm.{kind}": "D" for kind in ("weight", "bias")},
    "conv.up_conv.weight": "UD1",
    "conv.up_conv.bias": "U",
    "conv.depth_conv.conv.weight": "C1J",
    **{f"conv.batch_norm.{kind}": "C" for kind in ("weight", "bias", "running_mean", "running_var")},
    "conv.batch_norm.num_batches_tracked": "",
    "conv.down_conv.weight": "DC1",
    "conv.down_conv.bias": "D",
    **{f"post_norm.{kind}": "D" for kind in ("weight", "bias")},
}
"""A layer of Granite Speech's conformer.

N rows of queries, W of keys and values, P relative positions, B a head's size, U and C channels before and after the
gate, J width of the convolution.
"""
_GRANITE_TOWER = {
    "input_linear.weight": "DM",
    "input_linear.bias": "D",
    "out.weight": "LD",
    "out.bias": "L",
    "out_mid.weight": "DL",
    "out_mid.bias": "D",
}
"""The conformer outside its layers: L characters that its middle predicts."""

LAYOUTS = {
    "qwen2_audio": Layout({"multi_modal_projector.linear": "HD"}),
    "qwen2_5_omni": Layout(
        {"thinker.audio_tower.proj": "HD"},
        decoder="thinker.model.",
        head="thinker.lm_head.weight",
        tower="thinker.audio_tower.",
        other_parts=True,
        can_tie=True,
        tower_ends={"ln_post.weight": "D", "ln_post.bias": "D"},
    ),
    "qwen3_omni_moe": Layout(
        {"thinker.audio_tower.proj1": "DD", "thinker.audio_tower.proj2": "HD"},
        decoder="thinker.model.",
        head="thinker.lm_head.weight",
        tower="thinker.audio_tower.",
        other_parts=True,
        can_tie=True,
        tower_start=_CONVOLUTIONS_2D,
        tower_ends={"ln_post.weight": "D", "ln_post.bias": "D"},
        tower_layer=WHISPER_LAYER | {"self_attn.k_proj.bias": "D"},
        decoder_layer=_QWEN3_LAYER | {"mlp.gate.weight": "EH"},
        expert={"gate_proj.weight": "XH", "up_proj.weight": "XH", "down_proj.weight": "HX"},
        only={
            # vLLM counts the tokens of a clip by windows of 100 frames, whatever is configured.
            ("audio_config", "n_window"): 50,
            ("text_config", "decoder_sparse_step"): 1,
            ("text_config", "mlp_only_layers"): [],
            # vLLM would add this one, transformers has none.
            ("text_config", "shared_expert_intermediate_size"): 0,
        },
    ),
    "audioflamingo3": Layout({"multi_modal_projector.linear_1": "HD", "multi_modal_projector.linear_2": "HH"}),
    "glmasr": Layout(
        # Four frames side by side are as wide as the tower's inner layers.
        {"multi_modal_projector.linear_1": "WF", "multi_modal_projector.linear_2": "HW"},
        can_tie=True,
        ties_by_text=True,
        tower_ends={"norm.weight": "D", "norm.bias": "D"},
        tower_layer=_GLM_TOWER_LAYER,
        decoder_layer=_PLAIN_LAYER,
    ),
    "granite_speech": Layout(
        {"projector.linear": "HR"},
        tower="encoder.",
        can_tie=True,
        ties_by_text=True,
        query_former="projector.",
        tower_start=_GRANITE_TOWER,
        tower_ends={},
        tower_layer=_GRANITE_TOWER_LAYER,
        decoder_layer=_PLAIN_LAYER,
    ),
}
"""By the `model_type` of config.json."""

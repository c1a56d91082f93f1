"""Compare the weights of a checkpoint with its config.json: each layer complete, each shape as configured.

All families have a Whisper encoder and a Qwen2 decoder, so the names and shapes of their weights follow from a few
numbers. A number that config.json leaves to a default is taken from the first weight that shows it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from audio_qa.errors import shown
from audio_qa.families import FamilyFacts
from audio_qa.model_folder.documents import AGAIN, ModelError, Section
from audio_qa.model_folder.layouts import LAYOUTS, Layout
from audio_qa.model_folder.query_former import query_former_weights
from audio_qa.model_folder.weights import StoredWeight, conversion, stored_weights

_FLOATS = {"F64", "F32", "F16", "BF16"}
_MOST_LAYERS = 1000
_MOST_EXPERTS = 1000


def needed_weights(facts: FamilyFacts, config: Section, stored: Mapping[str, StoredWeight]) -> dict[str, str]:
    """Return the shape of each weight that a model needs to hear and answer, by name.

    Weights that audio questions do not use, such as a vision tower's, are not among them. Raises ModelError.

    Args:
        stored: the checkpoint's weights, for the number of layers that config.json leaves out, and for a tied head.
    """
    layout = LAYOUTS[facts.model_type]
    needed: dict[str, str] = {}
    decoder_layer = {**layout.decoder_layer, **_experts(layout, config.section(*facts.text_config), stored)}
    for part, own, each in (
        (layout.decoder, layout.decoder_ends, decoder_layer),
        (layout.tower, {**layout.tower_start, **layout.tower_ends}, layout.tower_layer),
    ):
        needed |= {part + name: shape for name, shape in own.items()}
        layers = min(_configured_layers(facts, config, part) or _stored_layers(part, stored), _MOST_LAYERS)
        needed |= {f"{part}layers.{i}.{name}": shape for i in range(layers) for name, shape in each.items()}
    # One setting suffices: both sides are told whether a head is stored (`stores_head`).
    keys = (facts.text_config,) if layout.ties_by_text else (facts.text_config[:-1], facts.text_config)
    levels = [config.section(*level) for level in keys]
    if layout.head in stored or not (layout.can_tie and any(lv.values.get("tie_word_embeddings") for lv in levels)):
        needed[layout.head] = "VH"
    if layout.query_former:
        needed |= query_former_weights(config, layout.query_former)
    for name, shape in layout.projector.items():
        needed[f"{name}.weight"] = shape
        if config.values.get("projector_bias", True):
            needed[f"{name}.bias"] = shape[0]
    return needed


def stores_head(folder: Path, facts: FamilyFacts) -> bool:
    """Return whether the weights have a head of their own, apart from the embedding. Raises ModelError."""
    return LAYOUTS[facts.model_type].head in stored_weights(folder)


def _experts(layout: Layout, text: Section, stored: Mapping[str, StoredWeight]) -> dict[str, str]:
    """Return the shapes of a decoder layer's experts by name; none in a dense decoder."""
    if not layout.expert:
        return {}
    named = re.compile(re.escape(layout.decoder) + r"layers\.0\.mlp\.experts\.(\d{1,6})\.")
    experts = text.number("num_experts") or max((int(m[1]) + 1 for n in stored if (m := named.match(n))), default=1)
    return {
        f"mlp.experts.{i}.{name}": shape
        for i in range(min(experts, _MOST_EXPERTS))
        for name, shape in layout.expert.items()
    }


def check_architecture(folder: Path, facts: FamilyFacts, config: Section, stored: Mapping[str, StoredWeight]) -> None:
    """Raise ModelError for a missing or quantized weight, and for a shape or number of layers other than configured."""
    where = repr(str(folder))
    for (name, key), only in LAYOUTS[facts.model_type].only.items():
        section = config.section(*facts.text_config[:-1], name)
        if (value := section.values.get(key)) not in (None, only):
            raise ModelError(f"{section.where}: {key} is {shown(value)}, and only {only} can be trained; {AGAIN}")
    needed = needed_weights(facts, config, stored)
    missing = [name for name in needed if name not in stored]
    if missing:
        raise ModelError(
            f"{where}: its safetensors files lack {len(missing)} weights of the {facts.name} model that config.json "
            f"describes, such as {missing[0]}; {conversion(folder) or f'{AGAIN}, or save the whole model in it'}"
        )
    # The only shape without axes is a count, of the batches that a normalisation saw.
    quantized = next((name for name, shape in needed.items() if shape and stored[name].dtype not in _FLOATS), None)
    if quantized is not None:
        raise ModelError(
            f"{where}: {quantized} is stored as {stored[quantized].dtype}; quantized weights cannot be trained: name "
            "the folder of the model in bfloat16, float16 or float32"
        )
    known = _dimensions(facts, config)
    for name, shape in needed.items():
        found = stored[name].shape
        expected = [int(axis) if axis.isdigit() else known.get(axis) for axis in shape]
        if len(found) != len(expected) or any(e not in (None, f) for e, f in zip(expected, found, strict=True)):
            sizes = ", ".join("any" if size is None else str(size) for size in expected)
            raise ModelError(
                f"{where}: config.json describes another model than the weights, in which {name} has the shape "
                f"{list(found)} in place of [{sizes}]; put the model's own config.json there, or {AGAIN}"
            )
        known |= {axis: size for axis, size in zip(shape, found, strict=True) if not axis.isdigit()}
    layout = LAYOUTS[facts.model_type]
    for part in (layout.decoder, layout.tower):
        configured, layers = _configured_layers(facts, config, part), _stored_layers(part, stored)
        if configured is not None and layers > configured:
            raise ModelError(
                f"{where}: config.json describes {configured} layers {part}layers.N and the weights have {layers}; put "
                f"the model's own config.json there, or {AGAIN}"
            )
    _check_others(where, facts, config, sorted(stored.keys() - needed.keys()))


def _check_others(where: str, facts: FamilyFacts, config: Section, others: list[str]) -> None:
    """Raise ModelError for weights that are not the model's, and for a head that only one of the readers would tie."""
    layout = LAYOUTS[facts.model_type]
    text = config.section(*facts.text_config)
    if not layout.can_tie and text.values.get("tie_word_embeddings"):
        raise ModelError(
            f"{text.where}: tie_word_embeddings is set, and the rollout workers would leave out the weights' own head "
            f"({layout.head}); set it to false"
        )
    # Buffers that older versions of transformers saved, and all readers leave out.
    others = [name for name in others if not name.endswith("rotary_emb.inv_freq")]
    if others and not layout.other_parts:
        raise ModelError(
            f"{where}: {len(others)} of its weights, such as {shown(others[0])}, have no place in the {facts.name} "
            f"model that config.json describes; put the model's own config.json there, or {AGAIN}"
        )


def _configured_layers(facts: FamilyFacts, config: Section, part: str) -> int | None:
    if part == LAYOUTS[facts.model_type].decoder:
        return config.section(*facts.text_config).number("num_hidden_layers")
    return audio_config(facts, config).number("encoder_layers", "num_hidden_layers", "num_layers")


def _stored_layers(part: str, stored: Mapping[str, StoredWeight]) -> int:
    """Return the number of layers that a part's names count, at least 1."""
    layer = re.compile(re.escape(part) + r"layers\.(\d{1,6})\.")
    return max((int(found[1]) + 1 for name in stored if (found := layer.match(name))), default=1)


def audio_config(facts: FamilyFacts, config: Section) -> Section:
    """Return the section of config.json about the audio tower. Raises ModelError."""
    return config.section(*facts.text_config[:-1], facts.audio_config)


def _dimensions(facts: FamilyFacts, config: Section) -> dict[str, int]:
    """Return the size of each axis that config.json sets."""
    text, audio = config.section(*facts.text_config), audio_config(facts, config)
    hidden, heads = text.number("hidden_size"), text.number("num_attention_heads")
    head = text.number("head_dim") or (hidden // heads if hidden and heads else None)
    groups = text.number("num_key_value_heads")
    found = {
        "H": hidden,
        "I": text.number("intermediate_size"),
        "V": text.number("vocab_size"),
        "Q": heads * head if heads and head else None,
        "K": groups * head if groups and head else None,
        "D": audio.number("d_model", "hidden_size", "hidden_dim"),
        "F": audio.number("encoder_ffn_dim", "intermediate_size"),
        "M": audio.number("num_mel_bins", "input_dim"),
        "P": audio.number("max_source_positions"),
        "A": head,
        "E": text.number("num_experts"),
        "X": text.number("moe_intermediate_size"),
        "C": audio.number("downsample_hidden_size"),
    }
    return {axis: size for axis, size in found.items() if size is not None}

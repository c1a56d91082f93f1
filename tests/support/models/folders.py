"""Model folders without torch: small documents, and weights whose headers are real and whose data are a hole."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from audio_qa.families import FACTS
from audio_qa.model_folder.architecture import needed_weights
from audio_qa.model_folder.documents import Section

Shapes = Mapping[str, Sequence[int]]

TEXT = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "max_position_embeddings": 256,
}
AUDIO = {
    "d_model": 6,
    "encoder_ffn_dim": 10,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "num_mel_bins": 4,
    "max_source_positions": 100,
}
_PUBLISHED_TEXT = {"intermediate_size": 11_008, "max_position_embeddings": 8192, "model_type": "qwen2"}
QWEN2_AUDIO_7B: dict[str, Any] = {
    "model_type": "qwen2_audio",
    "audio_token_index": 151_646,
    # As published: width and number of layers of the language model are left to the defaults.
    "text_config": {**_PUBLISHED_TEXT, "vocab_size": 156_032},
    "audio_config": {
        "d_model": 1280,
        "encoder_ffn_dim": 5120,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "num_mel_bins": 128,
        "max_source_positions": 1500,
    },
}
SIZES_7B = {"H": 4096, "I": 11_008, "V": 156_032, "Q": 4096, "K": 4096, "D": 1280, "F": 5120, "M": 128, "P": 1500}
_SIZES = {
    **{"H": 8, "I": 12, "V": 16, "Q": 8, "K": 4, "D": 6, "F": 10, "M": 4, "P": 100, "A": 2, "E": 3, "X": 5},
    **{"C": 4, "W": 14, "N": 6, "B": 3, "U": 8, "J": 15, "L": 9, "R": 5, "T": 11},
}
"""Axes by letter (`audio_qa.model_folder.layouts`)."""


def config_of(model_type: str) -> dict[str, Any]:
    """Return the config.json of a small model."""
    inner = {"text_config": dict(TEXT), "audio_config": dict(AUDIO)}
    if model_type == "qwen2_5_omni":
        return {"model_type": model_type, "thinker_config": {**inner, "audio_token_index": 3}}
    if model_type == "qwen3_omni_moe":
        text = TEXT | {"head_dim": 2, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 5}
        audio = AUDIO | {"downsample_hidden_size": 4}
        thinker = {"text_config": text, "audio_config": audio, "audio_token_id": 3, "audio_token_index": 3}
        return {"model_type": model_type, "thinker_config": thinker}
    if model_type == "granite_speech":
        conformer = {"hidden_dim": AUDIO["d_model"], "num_layers": 2, "input_dim": AUDIO["num_mel_bins"]}
        own = {"encoder_config": conformer, "projector_config": {"hidden_size": 5, "num_hidden_layers": 3}}
        return {"model_type": model_type, "text_config": dict(TEXT), **own, "audio_token_index": 3}
    return {"model_type": model_type, **inner, "audio_token_index": 3}


def shapes_of(config: dict[str, Any], sizes: Mapping[str, int] = _SIZES, layers: int | None = None) -> dict[str, Any]:
    """Return the shape of each weight; `layers` is the number of the decoder's layers if `config` leaves it out."""
    facts = FACTS[config["model_type"]]
    if layers is not None:
        config = {**config, "text_config": {**config["text_config"], "num_hidden_layers": layers}}
    needed = needed_weights(facts, Section("config.json", config), {})
    return {name: [int(a) if a.isdigit() else sizes[a] for a in axes] for name, axes in needed.items()}


def write_weights(path: Path, shapes: Shapes, dtype: str = "BF16", width: int = 2) -> None:
    """Write a sparse safetensors file."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + prod(shape) * width
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def write_shards(folder: Path, shapes: Shapes, count: int) -> dict[str, str]:
    """Write the weights in `count` files with an index; return the file of each weight."""
    names = list(shapes)
    weight_map = {}
    for i in range(count):
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        share = names[i * len(names) // count : (i + 1) * len(names) // count]
        write_weights(folder / file, {name: shapes[name] for name in share})
        weight_map |= dict.fromkeys(share, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return weight_map


def write_documents(folder: Path, config: dict[str, Any]) -> None:
    """Write everything of a checkpoint but its weights."""
    facts = FACTS[config["model_type"]]
    thinker = config.get("thinker_config", config)
    token = {"id": thinker["audio_token_index"], "content": facts.audio_token, "special": True}
    audio = thinker.get("audio_config", AUDIO)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": [2, 0], "do_sample": True})
    seconds = audio["max_source_positions"] // 50
    extractor = {"feature_size": audio["num_mel_bins"], "chunk_length": seconds, "sampling_rate": 16_000}
    write_json(folder / "preprocessor_config.json", extractor)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"})
    write_json(folder / "tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": [token]})


def write_model(folder: Path, model_type: str = "qwen2_audio", shards: int = 1) -> Path:
    """Write the folder of a small model that passes every check; it can be planned, but not run."""
    config = config_of(model_type)
    write_documents(folder, config)
    shapes = shapes_of(config)
    if shards == 1:
        write_weights(folder / "model.safetensors", shapes)
    else:
        write_shards(folder, shapes, shards)
    return folder


def write_7b(folder: Path) -> Path:
    """Write a folder with the documents and headers of Qwen2-Audio-7B; its 16 GB of data are a hole."""
    write_documents(folder, QWEN2_AUDIO_7B)
    write_shards(folder, shapes_of(QWEN2_AUDIO_7B, SIZES_7B, layers=32), 5)
    return folder


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def change_json(path: Path, **change: object) -> None:
    write_json(path, json.loads(path.read_text()) | change)

"""Model folders with broken documents, or with weights other than config.json describes; as in broken.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.models.broken import AGAIN, BROKEN, SINGLE, Broken, kind
from support.models.folders import AUDIO, TEXT, change_json, config_of, shapes_of, write_json, write_weights


def written(name: str, text: str, says: str, remedy: str = AGAIN) -> Broken:
    def broken(folder: Path) -> list[str]:
        (folder / name).write_text(text)
        return [name, says, remedy]

    return broken


for _name in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "generation_config.json"):
    BROKEN |= {
        f"empty_{_name}": written(_name, "", "it is empty"),
        f"cut_{_name}": written(_name, '{"a": [1, ', "not valid JSON"),
        f"list_in_{_name}": written(_name, "[1, 2]", "JSON object"),
        f"null_in_{_name}": written(_name, "null", "JSON object"),
        f"html_in_{_name}": written(_name, "<html>" + "x" * 5000, "not valid JSON"),
        f"marked_{_name}": written(_name, "\ufeff{}", "not valid JSON"),
    }
BROKEN |= {
    "nested_config": written("config.json", "[" * 100_000, "not valid JSON"),
    "empty_tokenizer": written("tokenizer.json", "", "not a tokenizer"),
    "cut_tokenizer": written("tokenizer.json", '{"model": {"vocab": {"a"', "not a tokenizer"),
    "tokenizer_of_something_else": written("tokenizer.json", '{"added_tokens": []}', "not a tokenizer"),
    "no_end_token": written("generation_config.json", '{"eos_token_id": "<|im_end|>"}', "eos_token_id", "set it to"),
    "end_token_below_0": written("generation_config.json", '{"eos_token_id": [-1]}', "eos_token_id", "set it to"),
    "end_token_too_large": written("generation_config.json", '{"eos_token_id": [2, 16]}', "16 tokens", "set it to"),
    "end_token_a_fraction": written("generation_config.json", '{"eos_token_id": 2.5}', "eos_token_id", "set it to"),
    "chunk_length_a_text": written("preprocessor_config.json", '{"chunk_length": "30 s"}', "chunk_length"),
    "another_rate": written("preprocessor_config.json", '{"chunk_length": 2, "sampling_rate": 44100}', "takes 16000"),
    "other_frames": written("preprocessor_config.json", '{"chunk_length": 2, "hop_length": 320}', "takes 160;"),
    "longer_than_the_tower": written("preprocessor_config.json", '{"chunk_length": 30}', "positions for 2 s"),
    "empty_template": written("chat_template.jinja", "\n", "is empty"),
    "another_processor": written("preprocessor_config.json", '{"feature_size": 80}', "feature_size is 80"),
}


def changed(change: dict[str, Any], *says: str) -> Broken:
    def broken(folder: Path) -> list[str]:
        change_json(folder / "config.json", **change)
        return list(says)

    return broken


QUANTIZED = ("quantization_config", "bfloat16")
BROKEN |= {
    "no_model_type": changed({"model_type": None}, "is a None model", "Earshot trains qwen2_audio"),
    "model_type_a_list": changed({"model_type": ["qwen2_audio"]}, "['qwen2_audio'] model", "Earshot trains"),
    "text_config_a_text": changed({"text_config": "qwen2"}, "text_config is 'qwen2'", AGAIN),
    "audio_config_a_list": changed({"audio_config": []}, "audio_config is []", AGAIN),
    "context_a_text": changed({"text_config": TEXT | {"hidden_size": "4096"}}, "hidden_size is '4096'", AGAIN),
    "no_layers": changed({"text_config": TEXT | {"num_hidden_layers": 0}}, "num_hidden_layers is 0", AGAIN),
    "another_width": changed({"text_config": TEXT | {"hidden_size": 16}}, "embed_tokens", "[16, 8]", "[16, 16]"),
    "another_vocabulary": changed({"text_config": TEXT | {"vocab_size": 32}}, "embed_tokens", "[16, 8]", "[32, 8]"),
    "other_heads": changed({"text_config": TEXT | {"num_key_value_heads": 4}}, "k_proj", "[4, 8]", "[8, 8]"),
    "another_encoder": changed({"audio_config": AUDIO | {"d_model": 12}}, "conv1", "[6, 4, 3]", "[12, 4, 3]"),
    "more_layers": changed({"text_config": TEXT | {"num_hidden_layers": 3}}, "lack 12 weights", "layers.2.", AGAIN),
    "fewer_layers": changed({"text_config": TEXT | {"num_hidden_layers": 1}}, "describes 1 layers", "have 2"),
    "fewer_encoder_layers": changed({"audio_config": AUDIO | {"encoder_layers": 1}}, "describes 1 layers", "have 2"),
    "endless_layers": changed({"text_config": TEXT | {"num_hidden_layers": 10**15}}, "lack", AGAIN),
    "tied": changed({"text_config": TEXT | {"tie_word_embeddings": True}}, "tie_word_embeddings", "set it to false"),
    "another_file": changed({"transformers_weights": "x.safetensors"}, "transformers_weights", "remove the key"),
    "quantized": changed({"quantization_config": {"quant_method": "fp8"}}, *QUANTIZED),
    "quantized_decoder": changed({"text_config": TEXT | {"quantization_config": {"bits": 4}}}, *QUANTIZED),
}


def with_weights(change: Callable[[dict[str, Any]], None], *says: str, **options: Any) -> Broken:
    def broken(folder: Path) -> list[str]:
        shapes = shapes_of(config_of("qwen2_audio"))
        change(shapes)
        write_weights(folder / SINGLE, shapes, **options)
        return list(says)

    return broken


def without(part: str) -> Callable[[dict[str, Any]], None]:
    def change(shapes: dict[str, Any]) -> None:
        for name in [name for name in shapes if part in name]:
            del shapes[name]

    return change


def as_transformers_names_them(shapes: dict[str, Any]) -> None:
    """These names are vLLM's for no family: its loader would end the engine."""
    for name in list(shapes):
        shapes[f"model.{name}"] = shapes.pop(name)


def with_adapters(shapes: dict[str, Any]) -> None:
    shapes["language_model.model.layers.0.self_attn.q_proj.lora_A.weight"] = [4, 8]


HEAD = "language_model.lm_head.weight"
BROKEN |= {
    "no_audio_tower": with_weights(without("audio_tower."), "lack 37 weights", "audio_tower.conv1", AGAIN),
    "no_projector": with_weights(without("projector"), "lack 2 weights", "multi_modal_projector", AGAIN),
    "no_head": with_weights(without("lm_head"), "lack 1 weights", HEAD, AGAIN),
    "one_bias_missing": with_weights(without("layers.1.self_attn.q_proj.bias"), "lack 2 weights", "q_proj.bias"),
    "other_names": with_weights(as_transformers_names_them, "lack", "language_model.model.embed_tokens", AGAIN),
    "more_weights": with_weights(with_adapters, "1 of its weights", "lora_A", "have no place", AGAIN),
    "stored_as_fp8": with_weights(lambda _: None, "F8_E4M3", "bfloat16", dtype="F8_E4M3", width=1),
    "stored_as_int8": with_weights(lambda _: None, "I8", "quantized", dtype="I8", width=1),
}


@kind
def audio_token_of_another_model(folder: Path) -> list[str]:
    change_json(folder / "config.json", audio_token_index=4)
    return ["<|AUDIO|>", "the number 3", "config.json 4", "tokenizer"]


@kind
def tokenizer_larger_than_the_model(folder: Path) -> list[str]:
    tokens = [{"id": 16, "content": "<|extra|>"}]
    write_json(folder / "tokenizer.json", {"model": {}, "added_tokens": tokens})
    return ["<|extra|>", "16", "rows", "tokenizer"]


@kind
def no_vocabulary(folder: Path) -> list[str]:
    (folder / "tokenizer.json").unlink()
    return ["lacks tokenizer.json", AGAIN]


def lacking(name: str) -> Broken:
    def broken(folder: Path) -> list[str]:
        (folder / name).unlink()
        return [f"lacks {name}", "Hugging Face"]

    return broken


BROKEN |= {f"no_{name}": lacking(name) for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json")}


@kind
def a_folder_in_place_of_a_file(folder: Path) -> list[str]:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    return ["lacks config.json", "Hugging Face"]


@kind
def the_hub_caches_own_folder(folder: Path) -> list[str]:
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "config.json").rename(snapshot / "config.json")
    return ["lacks config.json", f"name the folder of a checkpoint in it: {snapshot}"]


@kind
def a_runs_folder(folder: Path) -> list[str]:
    for step in (20, 100):
        (folder / "checkpoints" / f"step-{step}").mkdir(parents=True)
        (folder / "checkpoints" / f"step-{step}" / "config.json").write_text(json.dumps({}))
    (folder / "config.json").unlink()
    return ["lacks config.json", "step-100"]

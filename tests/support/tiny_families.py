"""A tiny model of each family: transformers' real classes, random weights, clips of two seconds.

The tokenizer is the tiny Qwen2-Audio's followed by the family's special tokens; the processor is the family's own.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    WhisperFeatureExtractor,
)

from audio_qa.omni_processor import OmniProcessor
from learner.checkpoint.export import write_checkpoint
from learner.families.registry import FAMILIES
from learner.tiny import architecture
from learner.tiny.tokenizer import make_tokenizer

CONTEXT = 256
PADDING_ROWS = 10
"""Rows of the head without a token."""
SECONDS = architecture.HEARS_SECONDS

OMNI_TOKENS = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
ENCODER = {
    "num_mel_bins": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "d_model": 64,
    "max_source_positions": 50 * SECONDS,
}
DECODER = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}


def chat_template(audio: str) -> str:
    """Return a chat template like the published ones, in which a clip is rendered as `audio`."""
    return (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% for part in message['content'] %}{% if part['type'] == 'audio' or 'audio' in part %}" + audio + ""
        "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def _tokenizer(special_tokens: dict[str, str]) -> PreTrainedTokenizerFast:
    base = make_tokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer,
        eos_token=base.eos_token,
        pad_token=base.pad_token,
        extra_special_tokens=special_tokens,
        model_max_length=base.model_max_length,
    )


def _features() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(
        feature_size=64, sampling_rate=16_000, hop_length=160, chunk_length=SECONDS, return_attention_mask=True
    )


def _text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {**DECODER, **ends, "vocab_size": len(tokenizer) + PADDING_ROWS}


def omni_processor() -> OmniProcessor:
    audio = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    return OmniProcessor(
        Qwen2VLImageProcessorPil(), _features(), _tokenizer(OMNI_TOKENS), chat_template=chat_template(audio)
    )


def omni_config(processor: OmniProcessor) -> Qwen2_5OmniThinkerConfig:
    """Return a configuration whose audio tower has windows of half a second, so that most clips have several."""
    ids = {name: processor.tokenizer.convert_tokens_to_ids(token) for name, token in OMNI_TOKENS.items()}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
    return Qwen2_5OmniThinkerConfig(
        audio_config={**ENCODER, "n_window": 25, "output_dim": DECODER["hidden_size"]},
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": DECODER["hidden_size"],
            "fullatt_block_indexes": [0],
        },
        text_config={**_text_config(processor.tokenizer), "rope_parameters": rope},
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
    )


def omni_model(processor: OmniProcessor) -> Qwen2_5OmniThinkerForConditionalGeneration:
    return Qwen2_5OmniThinkerForConditionalGeneration(omni_config(processor))


def flamingo_processor() -> AudioFlamingo3Processor:
    return AudioFlamingo3Processor(
        _features(), _tokenizer({"audio_token": "<sound>"}), chat_template=chat_template("<sound>")
    )


def flamingo_model(processor: AudioFlamingo3Processor) -> AudioFlamingo3ForConditionalGeneration:
    """Return a model whose processor accepts 10 minutes of audio in windows, like the published one; a clip is one."""
    config = AudioFlamingo3Config(
        audio_config=dict(ENCODER),
        text_config=_text_config(processor.tokenizer),
        audio_token_id=processor.audio_token_id,
    )
    return AudioFlamingo3ForConditionalGeneration(config)


@dataclass(frozen=True)
class Tiny:
    """Constructors of a tiny model."""

    processor: Callable[[], Any]
    model: Callable[[Any], Any]


TINY = {
    "qwen2_audio": Tiny(
        architecture.make_processor,
        lambda processor: architecture.make_model(architecture.make_config(processor), seed=0),
    ),
    "qwen2_5_omni": Tiny(omni_processor, omni_model),
    "audioflamingo3": Tiny(flamingo_processor, flamingo_model),
}
"""Constructors by `model_type`."""


def write_tiny(model_type: str, folder: Path) -> Path:
    """Write a checkpoint of the tiny model with the learner's writer. It is made once, and copied."""
    return shutil.copytree(_made(model_type), folder, dirs_exist_ok=True)


@cache
def _home() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


@cache
def _made(model_type: str) -> Path:
    folder = Path(_home().name) / model_type
    tiny = TINY[model_type]
    processor = tiny.processor()
    torch.manual_seed(0)
    model = tiny.model(processor)
    if model_type != "qwen2_audio":
        tokenizer = processor.tokenizer
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # transformers' small initial weights would make every answer nearly uniform for all audio.
                if "embed_positions" not in name:
                    parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim > 1 else 0.05))
        model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, do_sample=True)
    write_checkpoint(folder, FAMILIES[model_type], model, processor)
    return folder

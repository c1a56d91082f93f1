"""A tiny Qwen3-Omni: the thinker, with 8 experts of which a token takes 2.

As published: windows of one second (vLLM counts on them), heads whose size is not the width divided by their number, no
biases in the decoder, an MLP of experts in every layer.
"""

from typing import Any

from support.families.shared import DECODER, ENCODER, chat_template, features, text_config, tokenizer_with
from transformers import (
    Qwen2VLImageProcessorPil,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from audio_qa.omni_processor import Omni3Processor

OMNI3_TOKENS = {
    "audio_token": "<|audio_pad|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}


def omni3_processor() -> Omni3Processor:
    audio = "<|audio_start|><|audio_pad|><|audio_end|>"
    return Omni3Processor(
        Qwen2VLImageProcessorPil(), features(), tokenizer_with(OMNI3_TOKENS), chat_template=chat_template(audio)
    )


def omni3_config(processor: Omni3Processor) -> Qwen3OmniMoeThinkerConfig:
    """Return a configuration in which a token attends over one second of audio in place of eight."""
    ids = {name: processor.tokenizer.convert_tokens_to_ids(token) for name, token in OMNI3_TOKENS.items()}
    experts: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    rope = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [12, 10, 10],
        "interleaved": True,
        "mrope_interleaved": True,
    }
    return Qwen3OmniMoeThinkerConfig(
        audio_config={
            **ENCODER,
            "n_window": 50,
            "n_window_infer": 100,
            "downsample_hidden_size": 16,
            "output_dim": DECODER["hidden_size"],
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": DECODER["hidden_size"],
            "image_size": 64,
            "apply_vit_abs_pos_embed": True,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        text_config={**text_config(processor.tokenizer), **experts, "head_dim": 64, "rope_parameters": rope},
        audio_token_id=ids["audio_token"],
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
    )


def omni3_model(processor: Omni3Processor) -> Qwen3OmniMoeThinkerForConditionalGeneration:
    return Qwen3OmniMoeThinkerForConditionalGeneration(omni3_config(processor))

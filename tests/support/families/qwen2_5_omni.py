"""A tiny Qwen2.5-Omni: the thinker."""

from support.families.shared import DECODER, ENCODER, chat_template, features, text_config, tokenizer_with
from transformers import (
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from audio_qa.omni_processor import OmniProcessor

OMNI_TOKENS = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}


def omni_processor() -> OmniProcessor:
    audio = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    return OmniProcessor(
        Qwen2VLImageProcessorPil(), features(), tokenizer_with(OMNI_TOKENS), chat_template=chat_template(audio)
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
        text_config={**text_config(processor.tokenizer), "rope_parameters": rope},
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

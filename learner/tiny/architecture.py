"""The real Qwen2-Audio classes at tiny sizes: clips of up to two seconds, trainable on two CPU cores."""

import math

import torch
from transformers import (
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from learner.tiny.tokenizer import make_tokenizer

HEARS_SECONDS = 2
_MEL_FRAMES = HEARS_SECONDS * 100
_CONTEXT = 512


def make_processor() -> Qwen2AudioProcessor:
    features = WhisperFeatureExtractor(
        feature_size=64, sampling_rate=16_000, hop_length=160, chunk_length=HEARS_SECONDS
    )
    tokenizer = make_tokenizer()
    return Qwen2AudioProcessor(
        feature_extractor=features,
        tokenizer=tokenizer,
        chat_template=Qwen2AudioProcessor(feature_extractor=features, tokenizer=tokenizer).default_chat_template,
    )


def make_config(processor: Qwen2AudioProcessor) -> Qwen2AudioConfig:
    tokenizer = processor.tokenizer
    return Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(
            num_mel_bins=processor.feature_extractor.feature_size,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=512,
            d_model=128,
            max_source_positions=_MEL_FRAMES // 2,
        ).to_dict(),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=_CONTEXT,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ).to_dict(),
        audio_token_index=processor.audio_token_id,
    )


def _sinusoids(length: int, channels: int) -> torch.Tensor:
    """Return Whisper's fixed encoder positions, shape (length, channels), which the real model uses as well."""
    scale = math.log(10_000) / (channels // 2 - 1)
    inverse = torch.exp(-scale * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * inverse[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def make_model(config: Qwen2AudioConfig, seed: int) -> Qwen2AudioForConditionalGeneration:
    """Return a model with random float32 weights from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2AudioForConditionalGeneration(config)
    tower = model.model.audio_tower
    with torch.no_grad():
        tower.embed_positions.weight.copy_(_sinusoids(*tower.embed_positions.weight.shape))
    model.generation_config = GenerationConfig(
        eos_token_id=config.text_config.eos_token_id, pad_token_id=config.text_config.pad_token_id, do_sample=True
    )
    return model

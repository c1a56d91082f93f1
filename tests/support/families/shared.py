"""The parts that tiny models of several families share: tokenizer, features, sizes, chat template."""

from typing import Any

from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

from learner.tiny import architecture
from learner.tiny.tokenizer import make_tokenizer

CONTEXT = 256
PADDING_ROWS = 10
"""Rows of the head without a token."""
SECONDS = architecture.HEARS_SECONDS

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


def tokenizer_with(special_tokens: dict[str, str]) -> PreTrainedTokenizerFast:
    """Return the tiny Qwen2-Audio's tokenizer, followed by the family's special tokens."""
    base = make_tokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer,
        eos_token=base.eos_token,
        pad_token=base.pad_token,
        extra_special_tokens=special_tokens,
        model_max_length=base.model_max_length,
    )


def features() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(
        feature_size=64, sampling_rate=16_000, hop_length=160, chunk_length=SECONDS, return_attention_mask=True
    )


def text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {**DECODER, **ends, "vocab_size": len(tokenizer) + PADDING_ROWS}

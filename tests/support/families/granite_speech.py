"""A tiny Granite Speech."""

from support.families.shared import SECONDS, chat_template, text_config, tokenizer_with
from transformers import GraniteSpeechConfig, GraniteSpeechFeatureExtractor, GraniteSpeechForConditionalGeneration

from audio_qa.granite_processor import GraniteProcessor

ENCODER = {
    "input_dim": 160,
    "num_layers": 2,
    "hidden_dim": 32,
    "feedforward_mult": 2,
    "num_heads": 2,
    "dim_head": 16,
    "output_dim": 10,
    # Less than a clip: it has several blocks, the last one incomplete.
    "context_size": 40,
    "max_pos_emb": 48,
    "conv_kernel_size": 15,
    "conv_expansion_factor": 2,
}
PROJECTOR = {
    "model_type": "blip_2_qformer",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "encoder_hidden_size": ENCODER["hidden_dim"],
    "cross_attention_frequency": 1,
}
MULTIPLIERS = {
    "embedding_multiplier": 2.0,
    "logits_scaling": 0.5,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.1,
}
"""None is 1, and answers depend on the clip: the published ones would make those of random weights uniform."""


def granite_processor() -> GraniteProcessor:
    return GraniteProcessor(
        GraniteSpeechFeatureExtractor(chunk_length=SECONDS),
        tokenizer_with({"audio_token": "<|audio|>"}),
        chat_template=chat_template("<|audio|>"),
    )


def granite_model(processor: GraniteProcessor, *, tied: bool = True) -> GraniteSpeechForConditionalGeneration:
    """Return a model whose head is its embedding, as published, if `tied`."""
    tokenizer = processor.tokenizer
    text = {**text_config(tokenizer), **MULTIPLIERS, "model_type": "granite", "tie_word_embeddings": tied}
    config = GraniteSpeechConfig(
        encoder_config=dict(ENCODER),
        projector_config=dict(PROJECTOR),
        text_config=text,
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
        tie_word_embeddings=tied,
    )
    return GraniteSpeechForConditionalGeneration(config)

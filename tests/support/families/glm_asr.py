"""A tiny GLM-ASR."""

from support.families.shared import DECODER, features, text_config, tokenizer_with
from transformers import GlmAsrConfig, GlmAsrForConditionalGeneration, GlmAsrProcessor

GLM_TOKENS = {
    "audio_token": "<|pad|>",
    "audio_bos_token": "<|begin_of_audio|>",
    "audio_eos_token": "<|end_of_audio|>",
    "user_token": "<|user|>",
    "assistant_token": "<|assistant|>",
}
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' or 'audio' in part %}"
    "<|begin_of_audio|><|pad|><|end_of_audio|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ENCODER = {
    "num_mel_bins": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    # The projector takes four frames side by side, which transformers calls the inner size.
    "hidden_size": 64,
    "intermediate_size": 256,
    "max_position_embeddings": 100,
}


def glm_processor() -> GlmAsrProcessor:
    return GlmAsrProcessor(features(), tokenizer_with(GLM_TOKENS), chat_template=CHAT)


def glm_model(processor: GlmAsrProcessor, *, tied: bool = False) -> GlmAsrForConditionalGeneration:
    """Return a model whose head is its embedding if `tied`; the published one has both."""
    config = GlmAsrConfig(
        audio_config=dict(ENCODER),
        text_config={**text_config(processor.tokenizer), **DECODER, "tie_word_embeddings": tied},
        audio_token_id=processor.audio_token_id,
        tie_word_embeddings=tied,
    )
    return GlmAsrForConditionalGeneration(config)

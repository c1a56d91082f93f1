"""A tiny Audio Flamingo 3."""

from support.families.shared import ENCODER, chat_template, features, text_config, tokenizer_with
from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration, AudioFlamingo3Processor


def flamingo_processor() -> AudioFlamingo3Processor:
    return AudioFlamingo3Processor(
        features(), tokenizer_with({"audio_token": "<sound>"}), chat_template=chat_template("<sound>")
    )


def flamingo_model(processor: AudioFlamingo3Processor) -> AudioFlamingo3ForConditionalGeneration:
    """Return a model whose processor accepts 10 minutes of audio in windows, like the published one; a clip is one."""
    config = AudioFlamingo3Config(
        audio_config=dict(ENCODER),
        text_config=text_config(processor.tokenizer),
        audio_token_id=processor.audio_token_id,
    )
    return AudioFlamingo3ForConditionalGeneration(config)

"""Audio Flamingo 3 (Goel et al., 2025): a Whisper encoder, a projector of two layers and a Qwen2.5 language model.

Clips are limited to one window of 30 s: transformers and vLLM would encode longer ones as several separate windows.
"""

from typing import Any, ClassVar

from transformers import AudioFlamingo3ForConditionalGeneration

from audio_qa.families import FACTS, FamilyFacts
from learner.families.whisper_projector import WhisperProjectorFamily


class AudioFlamingo3(WhisperProjectorFamily):
    facts: ClassVar[FamilyFacts] = FACTS["audioflamingo3"]
    model_class: ClassVar[Any] = AudioFlamingo3ForConditionalGeneration
    mask_name: ClassVar[str] = "input_features_mask"

"""Qwen2-Audio (Chu et al., 2024): a Whisper encoder, a linear projector and a Qwen language model."""

from typing import Any, ClassVar

from transformers import Qwen2AudioForConditionalGeneration

from audio_qa.families import FACTS, FamilyFacts
from learner.families.whisper_projector import WhisperProjectorFamily


class Qwen2Audio(WhisperProjectorFamily):
    facts: ClassVar[FamilyFacts] = FACTS["qwen2_audio"]
    model_class: ClassVar[Any] = Qwen2AudioForConditionalGeneration
    mask_name: ClassVar[str] = "feature_attention_mask"

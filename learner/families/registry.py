"""The registry of model families."""

from audio_qa.families import facts_of
from learner.families.audio_flamingo_3 import AudioFlamingo3
from learner.families.family import Family
from learner.families.glm_asr import GlmAsr
from learner.families.granite_speech import GraniteSpeech
from learner.families.qwen2_5_omni import Qwen25Omni
from learner.families.qwen2_audio import Qwen2Audio
from learner.families.qwen3_omni import Qwen3Omni

FAMILIES: dict[str, Family] = {
    family.facts.model_type: family
    for family in (Qwen2Audio(), Qwen25Omni(), Qwen3Omni(), AudioFlamingo3(), GlmAsr(), GraniteSpeech())
}
"""Families by the `model_type` of config.json."""


def family_of(folder: str) -> Family:
    """Return the family of the checkpoint in `folder`. Raises KeyError for an unknown one."""
    return FAMILIES[facts_of(folder).model_type]

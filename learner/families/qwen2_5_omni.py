"""Qwen2.5-Omni (Xu et al., 2025), thinker only."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import (
    PreTrainedModel,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from audio_qa.families import FACTS, FamilyFacts
from learner.families.audio_tower import encode_clips_in_windows
from learner.families.family import Part
from learner.families.omni_thinker import OmniThinker


class Qwen25Omni(OmniThinker):
    facts: ClassVar[FamilyFacts] = FACTS["qwen2_5_omni"]
    model_class: ClassVar[Any] = Qwen2_5OmniThinkerForConditionalGeneration
    whole_config: ClassVar[Any] = Qwen2_5OmniConfig
    architecture: ClassVar[str] = Qwen2_5OmniForConditionalGeneration.__name__
    parts: ClassVar[Mapping[str, Part]] = {
        "thinker.visual.": Part.FIXED,
        # Used neither by transformers nor by vLLM.
        "thinker.audio_tower.audio_bos_eos_token.": Part.FIXED,
        # The last layer of transformers' tower is the projector.
        "thinker.audio_tower.proj.": Part.PROJECTOR,
        "thinker.audio_tower.": Part.AUDIO_TOWER,
    }

    def encode(
        self, model: PreTrainedModel, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        return encode_clips_in_windows(model.audio_tower, mels)

    def project(self, model: PreTrainedModel, encoded: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = model.audio_tower.proj(encoded)
        return projected

"""GLM-ASR (Zhipu AI, 2025): a Whisper encoder with rotary positions, a projector that merges four frames, and a Llama.

The encoder has no mask: it attends over the whole window of the feature extractor, silence after the clip included, in
transformers and in vLLM alike. So all frames are encoded, and only those of the clip are kept. A clip is one window.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import GlmAsrForConditionalGeneration, PreTrainedModel

from audio_qa.families import FACTS, FamilyFacts
from learner.families.family import Part
from learner.families.tied_head import TiedByLanguageModel
from learner.families.whisper_projector import WhisperProjectorFamily


class GlmAsr(TiedByLanguageModel, WhisperProjectorFamily):
    facts: ClassVar[FamilyFacts] = FACTS["glmasr"]
    model_class: ClassVar[Any] = GlmAsrForConditionalGeneration
    mask_name: ClassVar[str] = "input_features_mask"
    parts: ClassVar[Mapping[str, Part]] = {
        "audio_tower.": Part.AUDIO_TOWER,
        "multi_modal_projector.": Part.PROJECTOR,
    }

    def features(self, outputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        return outputs["input_features"][0].clone(), int(outputs[self.mask_name].sum())

    def pass_key(self, mel: torch.Tensor, valid_frames: int) -> None:
        """Return one key for all clips: each fills the window."""

    def encode(
        self, model: PreTrainedModel, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        """Return the tower's output, with the frames that one embedding is made of side by side, shape (A, 4 D)."""
        tower = model.model.audio_tower
        # Reading a parameter by its name would gather it under ZeRO-3.
        weight = next(tower.parameters())
        features = torch.stack(list(mels)).to(device=weight.device, dtype=weight.dtype)
        hidden = tower(features).last_hidden_state
        # transformers reads the number of frames from the inner size, which is four times the width.
        merged = hidden.reshape(len(mels), -1, model.config.audio_config.intermediate_size)
        tokens = [self.facts.audio_tokens(valid) for valid in valid_frames]
        return [clip[:count] for clip, count in zip(merged, tokens, strict=True)]

"""Families that combine a Whisper encoder, a projector and a Qwen language model in one module."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from learner.families.audio_tower import encode_clips, frames_kept
from learner.families.family import Family, Part


class WhisperProjectorFamily(Family):
    """A family with canonical checkpoint names: those of transformers' `save_pretrained` are refused by vLLM."""

    mask_name: ClassVar[str]
    """Name of the mask of valid mel frames in the processor's outputs."""
    prefixes: ClassVar[Mapping[str, str]] = {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.audio_tower.": "audio_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    }
    parts: ClassVar[Mapping[str, Part]] = {
        # Sinusoidal positions: transformers freezes them when it builds a model, but not when it loads one.
        "audio_tower.embed_positions.": Part.FIXED,
        "audio_tower.": Part.AUDIO_TOWER,
        "multi_modal_projector.": Part.PROJECTOR,
    }

    def audio_token_id(self, model: PreTrainedModel) -> int:
        return int(model.config.audio_token_id)

    def vocabulary_size(self, model: PreTrainedModel) -> int:
        return int(model.config.text_config.vocab_size)

    def decoder(self, model: PreTrainedModel) -> Any:
        return model.model.language_model

    def head(self, model: PreTrainedModel) -> nn.Module:
        head: nn.Module = model.lm_head
        return head

    def tower(self, model: PreTrainedModel) -> nn.Module:
        tower: nn.Module = model.model.audio_tower
        return tower

    def features(self, outputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        mel, valid = outputs["input_features"][0], int(outputs[self.mask_name].sum())
        return mel[:, : frames_kept(valid, mel.shape[1])].clone(), valid

    def encode(
        self, model: PreTrainedModel, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        return encode_clips(model.model.audio_tower, mels, valid_frames[0])

    def pass_key(self, mel: torch.Tensor, valid_frames: int) -> Hashable:
        """Return the clip's length: clips of equal length are encoded together, without any mask."""
        return mel.shape[1], valid_frames

    def project(self, model: PreTrainedModel, encoded: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = model.model.multi_modal_projector(encoded)
        return projected

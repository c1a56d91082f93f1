"""Qwen2-Audio (Chu et al., 2024): a Whisper encoder, a linear projector and a Qwen language model."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel, Qwen2AudioForConditionalGeneration

from learner.audio_tower import encode_clips, frames_kept
from learner.families.family import Family, Part


class Qwen2Audio(Family):
    """transformers' own `save_pretrained` writes names for it that vLLM refuses: checkpoints take them from here."""

    model_type: ClassVar[str] = "qwen2_audio"
    prefixes: ClassVar[Mapping[str, str]] = {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.audio_tower.": "audio_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    }
    parts: ClassVar[Mapping[str, Part]] = {
        "audio_tower.": Part.AUDIO_TOWER,
        "multi_modal_projector.": Part.PROJECTOR,
    }

    def load(self, folder: str, dtype: torch.dtype) -> tuple[PreTrainedModel, list[str]]:
        model, report = Qwen2AudioForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
        # Sinusoids, not weights: transformers freezes them when it builds a model, and forgets it when it loads one.
        model.model.audio_tower.embed_positions.requires_grad_(False)
        return model, sorted(report["missing_keys"])

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
        mel, valid = outputs["input_features"][0], int(outputs["feature_attention_mask"].sum())
        return mel[:, : frames_kept(valid, mel.shape[1])].clone(), valid

    def encode(
        self, model: PreTrainedModel, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        return encode_clips(model.model.audio_tower, mels, valid_frames)

    def project(self, model: PreTrainedModel, encoded: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = model.model.multi_modal_projector(encoded)
        return projected

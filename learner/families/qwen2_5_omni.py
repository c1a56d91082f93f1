"""Qwen2.5-Omni (Xu et al., 2025), thinker only: audio in, text out.

A checkpoint has the layout of the published one, the only one that vLLM knows: `model_type` qwen2_5_omni, a
`thinker_config`, and names that start with `thinker.`. The speech parts (talker and vocoder) are neither loaded nor
written: checkpoints set `enable_audio_output: false`. The vision tower is kept unchanged, since both libraries expect
it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from audio_qa.families import FACTS, FamilyFacts
from learner.families.audio_tower import encode_clips_in_windows
from learner.families.family import Family, Part


class Qwen25Omni(Family):
    facts: ClassVar[FamilyFacts] = FACTS["qwen2_5_omni"]
    model_class: ClassVar[Any] = Qwen2_5OmniThinkerForConditionalGeneration
    prefixes: ClassVar[Mapping[str, str]] = {"": "thinker."}
    parts: ClassVar[Mapping[str, Part]] = {
        "thinker.visual.": Part.FIXED,
        # Used neither by transformers nor by vLLM.
        "thinker.audio_tower.audio_bos_eos_token.": Part.FIXED,
        # The last layer of transformers' tower is the projector.
        "thinker.audio_tower.proj.": Part.PROJECTOR,
        "thinker.audio_tower.": Part.AUDIO_TOWER,
    }

    def config(self, model: PreTrainedModel) -> PreTrainedConfig:
        thinker = model.config.to_dict()
        # transformers reads the tie of head and embeddings from the thinker, vLLM from its language model.
        thinker["text_config"]["tie_word_embeddings"] = model.config.tie_word_embeddings
        return Qwen2_5OmniConfig(
            thinker_config=thinker,
            enable_audio_output=False,
            architectures=[Qwen2_5OmniForConditionalGeneration.__name__],
            dtype=model.dtype,
        )

    def update_config(self, config: dict[str, Any], model: PreTrainedModel) -> None:
        config["architectures"] = [Qwen2_5OmniForConditionalGeneration.__name__]
        config["enable_audio_output"] = False
        tied = {"tie_word_embeddings": model.config.tie_word_embeddings}
        thinker = config["thinker_config"]
        config["thinker_config"] = {**thinker, **tied, "text_config": {**thinker.get("text_config", {}), **tied}}

    def audio_token_id(self, model: PreTrainedModel) -> int:
        return int(model.config.audio_token_id)

    def vocabulary_size(self, model: PreTrainedModel) -> int:
        return int(model.config.text_config.vocab_size)

    def decoder(self, model: PreTrainedModel) -> Any:
        return model.model

    def head(self, model: PreTrainedModel) -> nn.Module:
        head: nn.Module = model.lm_head
        return head

    def tower(self, model: PreTrainedModel) -> nn.Module:
        tower: nn.Module = model.audio_tower
        return tower

    def features(self, outputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        valid = int(outputs["feature_attention_mask"].sum())
        return outputs["input_features"][0][:, :valid].clone(), valid

    def encode(
        self, model: PreTrainedModel, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        return encode_clips_in_windows(model.audio_tower, mels)

    def project(self, model: PreTrainedModel, encoded: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = model.audio_tower.proj(encoded)
        return projected

    def position_ids(self, positions: torch.Tensor) -> torch.Tensor:
        """Return time, height and width positions, shape (3, 1, T): without images all three count the tokens."""
        return positions.expand(3, *positions.shape)

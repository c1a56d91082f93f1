"""Granite Speech (Saon et al., 2025): a conformer, a Q-Former over windows of its output, and a Granite language model.

The conformer attends within blocks, but its convolutions look beyond them, so clips are encoded by length, without
padding. The Q-Former reads windows of 15 frames, the last one filled with zeros, and makes three embeddings of each.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import GraniteSpeechForConditionalGeneration, PreTrainedModel

from audio_qa.families import FACTS, FamilyFacts
from learner.families.family import Part
from learner.families.tied_head import TiedByLanguageModel


class GraniteSpeech(TiedByLanguageModel):
    facts: ClassVar[FamilyFacts] = FACTS["granite_speech"]
    model_class: ClassVar[Any] = GraniteSpeechForConditionalGeneration
    prefixes: ClassVar[Mapping[str, str]] = {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.encoder.": "encoder.",
        "model.projector.": "projector.",
    }
    parts: ClassVar[Mapping[str, Part]] = {"encoder.": Part.AUDIO_TOWER, "projector.": Part.PROJECTOR}

    def audio_token_id(self, model: PreTrainedModel) -> int:
        return int(model.config.audio_token_id)

    def vocabulary_size(self, model: PreTrainedModel) -> int:
        return int(model.config.text_config.vocab_size)

    def decoder(self, model: PreTrainedModel) -> Any:
        return model.model.language_model

    def head(self, model: PreTrainedModel) -> nn.Module:
        head: nn.Module = model.lm_head
        return head

    def logits_scaling(self, model: PreTrainedModel) -> float:
        """Return Granite's divisor of logits, which vLLM applies and transformers leaves out for this model."""
        return float(model.config.text_config.logits_scaling)

    def tower(self, model: PreTrainedModel) -> nn.Module:
        tower: nn.Module = model.model.encoder
        return tower

    def features(self, outputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        # Two frames side by side are one input of the conformer.
        pairs = outputs["input_features"][0]
        mel = pairs.reshape(2 * len(pairs), -1).T.clone()
        return mel, mel.shape[1]

    def pass_key(self, mel: torch.Tensor, valid_frames: int) -> Hashable:
        """Return the clip's length."""
        return valid_frames

    def encode(
        self, model: PreTrainedModel, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        """Return the conformer's output for clips of equal length, each of shape (F, D), in whole windows."""
        # The published model trains with dropout and batch statistics; rollout workers have neither.
        tower = self.tower(model).eval()
        # Reading a parameter by its name would gather it under ZeRO-3.
        weight = next(tower.parameters())
        features = torch.stack([mel.T.reshape(mel.shape[1] // 2, -1) for mel in mels])
        hidden = tower(features.to(device=weight.device, dtype=weight.dtype)).last_hidden_state
        return list(nn.functional.pad(hidden, (0, 0, 0, -hidden.shape[1] % model.config.window_size)))

    def project(self, model: PreTrainedModel, encoded: torch.Tensor) -> torch.Tensor:
        """Map whole windows of the conformer's output, shape (F, D), to embeddings, shape (A, H)."""
        projected: torch.Tensor = model.model.projector.eval()(encoded[None])[0]
        return projected

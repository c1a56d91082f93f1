"""Qwen3-Omni (Xu et al., 2025), thinker only: a decoder of experts (30 B parameters, 3 B of them for each token).

Experts and routers stay as published: both sides route equally as long as they compute equal hidden states, and nothing
balances the experts (transformers' auxiliary loss is not used). Attention, embeddings, head, norms, projector and audio
tower train, in full or by adapters.

transformers joins a layer's experts into two tensors, checkpoints and vLLM have three for each expert.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import (
    PreTrainedModel,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from audio_qa.families import FACTS, FamilyFacts
from learner.families.family import Part, Slice
from learner.families.omni_thinker import OmniThinker
from learner.families.second_by_second import encode_clips_by_second

_GATE_UP, _DOWN = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"
_ROUTER = ".mlp.gate.weight"


class Qwen3Omni(OmniThinker):
    facts: ClassVar[FamilyFacts] = FACTS["qwen3_omni_moe"]
    model_class: ClassVar[Any] = Qwen3OmniMoeThinkerForConditionalGeneration
    whole_config: ClassVar[Any] = Qwen3OmniMoeConfig
    architecture: ClassVar[str] = Qwen3OmniMoeForConditionalGeneration.__name__
    parts: ClassVar[Mapping[str, Part]] = {
        "thinker.visual.": Part.FIXED,
        # The last layers of transformers' tower are the projector.
        "thinker.audio_tower.proj1.": Part.PROJECTOR,
        "thinker.audio_tower.proj2.": Part.PROJECTOR,
        "thinker.audio_tower.": Part.AUDIO_TOWER,
    }

    def part(self, canonical: str) -> Part:
        if canonical.endswith((_GATE_UP, _DOWN, _ROUTER)):
            return Part.FIXED
        return super().part(canonical)

    def stored(self, canonical: str, shape: Sequence[int]) -> list[tuple[str, Slice]]:
        if canonical.endswith(_GATE_UP):
            layer, experts, half = canonical.removesuffix("gate_up_proj"), shape[0], shape[1] // 2
            return [
                (f"{layer}{e}.{name}.weight", (e, rows))
                for e in range(experts)
                for name, rows in (("gate_proj", slice(0, half)), ("up_proj", slice(half, 2 * half)))
            ]
        if canonical.endswith(_DOWN):
            layer = canonical.removesuffix("down_proj")
            return [(f"{layer}{e}.down_proj.weight", (e,)) for e in range(shape[0])]
        return super().stored(canonical, shape)

    def encode(
        self, model: PreTrainedModel, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        return encode_clips_by_second(model.audio_tower, mels)

    def project(self, model: PreTrainedModel, encoded: torch.Tensor) -> torch.Tensor:
        tower: Any = model.audio_tower
        projected: torch.Tensor = tower.proj2(tower.act(tower.proj1(encoded)))
        return projected

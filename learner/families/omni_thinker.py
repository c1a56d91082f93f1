"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: audio in, text out.

A checkpoint has the layout of the published one, the only one that vLLM knows: the `model_type` of the whole model, a
`thinker_config`, and names that start with `thinker.`. The speech parts (talker and vocoder) are neither loaded nor
written: checkpoints set `enable_audio_output: false`. The vision tower is kept unchanged, since both libraries expect
it.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from audio_qa.model_folder.architecture import stores_head
from audio_qa.model_folder.documents import ModelError
from learner.families.family import Family


class OmniThinker(Family):
    """The common part of both thinkers."""

    whole_config: ClassVar[Any]
    """The configuration of the whole model in transformers."""
    architecture: ClassVar[str]
    """The name of the whole model's class, in config.json."""
    prefixes: ClassVar[Mapping[str, str]] = {"": "thinker."}

    def load(self, folder: str, dtype: torch.dtype, **settings: Any) -> tuple[PreTrainedModel, list[str]]:
        # Folders differ in which of two settings ties the head, and in what holds without one: the weights decide.
        # Weights that cannot be read fail below, as in every family.
        with suppress(ModelError):
            settings = {"tie_word_embeddings": not stores_head(Path(folder), self.facts), **settings}
        return super().load(folder, dtype, **settings)

    def config(self, model: PreTrainedModel) -> PreTrainedConfig:
        thinker = model.config.to_dict()
        # transformers reads the tie of head and embeddings from the thinker, vLLM from its language model.
        thinker["text_config"]["tie_word_embeddings"] = model.config.tie_word_embeddings
        return self.whole_config(
            thinker_config=thinker,
            enable_audio_output=False,
            architectures=[self.architecture],
            dtype=model.dtype,
        )

    def update_config(self, config: dict[str, Any], model: PreTrainedModel) -> None:
        config["architectures"] = [self.architecture]
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

    def position_ids(self, positions: torch.Tensor) -> torch.Tensor:
        """Return time, height and width positions, shape (3, 1, T): without images all three count the tokens."""
        return positions.expand(3, *positions.shape)

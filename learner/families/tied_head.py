"""Heads that may be the embedding, for families in which only the language model's configuration decides it.

vLLM ties by `tie_word_embeddings` of the language model, false by default; transformers by that of the whole model,
true by default, and unless the weights differ. Here vLLM's rule holds in both.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from audio_qa.families import read_config
from learner.families.family import Family

_TIE = "tie_word_embeddings"


class TiedByLanguageModel(Family):
    """A family whose head is tied if, and only if, the language model's configuration says so."""

    def load(self, folder: str, dtype: torch.dtype, **settings: Any) -> tuple[PreTrainedModel, list[str]]:
        text: Any = read_config(folder)
        for key in self.facts.text_config:
            text = text.get(key) or {}
        tied = bool(text.get(_TIE))
        model, faults = super().load(folder, dtype, **{_TIE: tied}, **settings)
        if tied and self.head(model).weight is not self.decoder(model).embed_tokens.weight:
            faults.append(
                f"has a head that is not the embedding, which the rollout workers would leave out ({_TIE} is set in "
                "the language model's configuration)"
            )
        return model, faults

    def update_config(self, config: dict[str, Any], model: PreTrainedModel) -> None:
        super().update_config(config, model)
        if config.get(_TIE, True) != model.config.tie_word_embeddings:
            config[_TIE] = model.config.tie_word_embeddings

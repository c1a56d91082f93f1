"""A vLLM logits processor that bans one fixed set of token ids in every request.

Not argmax-invariant, so vLLM applies it before greedy decoding and before temperature; processed log-probabilities
are therefore those of the distribution over the remaining tokens. (`allowed_token_ids` on each request would carry a
list as long as the vocabulary with every sequence.)
"""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

CONFIG_KEY = "earshot_banned_token_ids"
"""Key of the ids in vLLM's `additional_config`."""

CLASS_NAME = f"{__name__}:BannedTokens"
"""Entry for vLLM's `logits_processors`."""


class BannedTokens(LogitsProcessor):  # type: ignore[misc]  # vLLM is untyped here
    """Sets the logits of banned tokens to minus infinity."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._ids = torch.tensor(vllm_config.additional_config[CONFIG_KEY], dtype=torch.long, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Ban the ids in `logits`, of shape (sequences, vocabulary), in place."""
        return logits.index_fill_(1, self._ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Do nothing: the set is the same for every sequence."""

"""What a row costs, in floating-point operations: to choose the cheaper path, and to say how much of a machine is used.

Counted as in Kaplan et al., 2020, "Scaling Laws for Neural Language Models", section 2.1: two operations for each
weight of a linear layer and token, and four for each dimension of a head and pair of tokens that attention looks at.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from learner.model.attention import attended_together
from learner.model.packing import Row


@dataclass(frozen=True, slots=True)
class DecoderCost:
    """Of one forward pass through a decoder, without its head."""

    per_token: float
    """Operations of the linear layers."""
    per_pair: float
    """Operations of attention, for each pair of a token and one it looks at."""

    @classmethod
    def of(cls, decoder: Any) -> "DecoderCost":
        """Of one of transformers' decoders."""
        weights = 0
        for module in decoder.modules():
            if isinstance(module, nn.Linear):
                # Under ZeRO-3 a weight's own storage is empty; its full size is noted beside it.
                weights += int(getattr(module.weight, "ds_numel", module.weight.numel()))
        config = decoder.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(2.0 * weights, 4.0 * config.num_hidden_layers * config.num_attention_heads * head)

    def row(self, row: Row) -> float:
        """A row as `learner.attention` computes it."""
        p, lengths = len(row.prompt.token_ids), [len(c) for c in row.completions]
        if len(lengths) == 1:
            pairs = causal_pairs(p + lengths[0])
        else:
            together = sum(lengths) * (p + sum(lengths))
            one_by_one = sum(n * (p + n) for n in lengths)
            pairs = causal_pairs(p) + (together if attended_together(p, lengths) else one_by_one)
        return self.per_token * len(row) + self.per_pair * pairs


def causal_pairs(tokens: int) -> float:
    """Pairs of a token and one it looks at, itself included, where each looks at all before it."""
    return tokens * (tokens + 1) / 2

"""Floating-point operations of a row, to choose the cheaper path and to measure utilization.

Counted as in Kaplan et al., 2020, "Scaling Laws for Neural Language Models" (arXiv:2001.08361), section 2.1: two
operations per token and weight of a linear layer, and four per attended pair of tokens and dimension of a head.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from learner.model.attention import attends_jointly
from learner.model.packing import Row


@dataclass(frozen=True, slots=True)
class DecoderFlops:
    """Operations of one forward pass through a decoder, without its head."""

    per_token: float
    """Operations of the linear layers per token."""
    per_pair: float
    """Operations of attention per pair of a query token and a key token."""

    @classmethod
    def of(cls, decoder: Any) -> "DecoderFlops":
        """Count the operations of one of transformers' decoders."""
        weights = 0
        for module in decoder.modules():
            if isinstance(module, nn.Linear):
                # Under ZeRO-3 a weight's storage is empty; DeepSpeed records the full size in an attribute.
                weights += int(getattr(module.weight, "ds_numel", module.weight.numel()))
        config = decoder.config
        for parameter in decoder.parameters():
            shape = getattr(parameter, "ds_shape", parameter.shape)
            if len(shape) == 3:  # a matrix for each expert, of which a token takes a few
                weights += config.num_experts_per_tok * shape[1] * shape[2]
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(2.0 * weights, 4.0 * config.num_hidden_layers * config.num_attention_heads * head)

    def row(self, row: Row) -> float:
        """Return the operations of a row as `learner.model.attention` computes it."""
        p, lengths = len(row.prompt.token_ids), [len(c) for c in row.completions]
        if len(lengths) == 1:
            pairs = causal_pairs(p + lengths[0])
        else:
            jointly = sum(lengths) * (p + sum(lengths))
            one_by_one = sum(n * (p + n) for n in lengths)
            pairs = causal_pairs(p) + (jointly if attends_jointly(p, lengths) else one_by_one)
        return self.per_token * len(row) + self.per_pair * pairs


def causal_pairs(tokens: int) -> float:
    """Return the number of query-key pairs under a causal mask; a token also attends to itself."""
    return tokens * (tokens + 1) / 2

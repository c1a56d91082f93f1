"""The return type of every policy loss."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A policy loss at each of N tokens, before it is aggregated."""

    terms: torch.Tensor
    """Loss terms, shape (N,), with gradient."""
    ratio: torch.Tensor
    """Ratio of policy to old policy, of the token or of its whole sequence, shape (N,)."""
    clipped: torch.Tensor
    """bool, shape (N,): the bound clipped the ratio. Without CISPO, such a token has no gradient."""

"""What every policy loss returns."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A policy loss at each of N tokens, before it is aggregated."""

    terms: torch.Tensor
    """Shape (N,), with gradient."""
    ratio: torch.Tensor
    """Shape (N,): policy over old policy, of the token or of its whole sequence."""
    clipped: torch.Tensor
    """bool, shape (N,): where the bound cut the ratio, so that nothing is learnt from the token."""

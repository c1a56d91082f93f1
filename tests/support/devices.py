"""The devices of the learner's tests: the CPU, and a GPU if there is one."""

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DEVICES = ("cpu", pytest.param("cuda", marks=needs_gpu))


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of the exact value, computed in float64."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    return float((found - exact).norm() / exact.norm())

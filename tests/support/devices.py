"""Where the learner's tests run: on the CPU, and on a GPU where there is one."""

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DEVICES = ("cpu", pytest.param("cuda", marks=needs_gpu))


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The norm of the difference over the norm of what is right, worked out in float64."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    return float((found - exact).norm() / exact.norm())

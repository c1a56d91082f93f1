"""Read the full float32 master copy and AdamW moments of a parameter, under any ZeRO stage.

Checkpoints store these values, so they do not depend on the number of ranks.
"""

from collections.abc import Iterator

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
)
from torch import nn

from learner.training.engine import TrainingEngine

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")


def adam_steps(engine: TrainingEngine) -> int:
    """Return the number of updates of AdamW, which its bias correction depends on."""
    steps = [int(state["step"]) for state in adam_of(engine).state.values() if "step" in state]
    return max(steps, default=0)


def read_state(engine: TrainingEngine, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """Return master copy and, once AdamW has stepped, moments: float32, in the parameter's shape.

    All ranks must call it together, after `link_state`.
    """
    names = MOMENTS if adam_steps(engine) else ()
    if engine.zero_stage == 0:
        state = adam_of(engine).state.get(parameter, {})
        return {MASTER: parameter.detach(), **{name: state[name] for name in names}}
    found = {MASTER: safe_get_full_fp32_param(parameter)}
    return found | {name: safe_get_full_optimizer_state(parameter, name) for name in names}


def create_state(engine: TrainingEngine, steps: int) -> None:
    """Create the state of a new AdamW as after `steps` updates, with zero moments to write to."""
    adam = adam_of(engine)
    for flat in _flat_parameters(engine):
        adam.state[flat] = {
            # The fused AdamW counts on the device of the parameter.
            "step": torch.tensor(float(steps), dtype=torch.float32, device=flat.device),
            **{name: torch.zeros_like(flat, memory_format=torch.preserve_format) for name in MOMENTS},
        }
    link_state(engine)


def link_state(engine: TrainingEngine) -> None:
    """Make DeepSpeed link each parameter to its moments, before they are read or written.

    DeepSpeed links them only once, after the first step of its first parameter group, when others have no moments yet.
    """
    if engine.zero_stage in (1, 2):
        engine.deepspeed.optimizer._hp_optimizer_states_linked = False
        engine.deepspeed.optimizer._lazy_init_hp_params_optimizer_state()


def adam_of(engine: TrainingEngine) -> torch.optim.Optimizer:
    """Return the AdamW around which DeepSpeed has put its own optimizer, if any."""
    outer = engine.deepspeed.optimizer
    adam: torch.optim.Optimizer = outer if isinstance(outer, torch.optim.Optimizer) else outer.optimizer
    return adam


def _flat_parameters(engine: TrainingEngine) -> Iterator[torch.Tensor]:
    """Yield the tensors that AdamW steps: parameters, or this rank's flat partitions of parameter groups."""
    optimizer = engine.deepspeed.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            yield from getattr(optimizer, name)
            return
    for group in optimizer.param_groups:
        yield from group["params"]

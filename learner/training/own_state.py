"""The share of master copies and AdamW moments that this rank keeps, under any ZeRO stage: where it is, and writing it.

Invariant: the shares of all ranks together are every element of every parameter. Without ZeRO each rank has them all.
"""

from collections.abc import Mapping

import torch
from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state
from torch import distributed, nn

from learner.training.engine import TrainingEngine
from learner.training.optimizer_state import MASTER, adam_of


def own_range(engine: TrainingEngine, parameter: nn.Parameter) -> tuple[int, int]:
    """Return start and stop of the rank's share in the flattened parameter; they are equal if it has none."""
    if engine.zero_stage == 0:
        return 0, parameter.numel()
    if engine.zero_stage == 3:
        size, whole = int(parameter.ds_tensor.numel()), int(parameter.ds_numel)  # type: ignore[attr-defined]
        start = min(size * distributed.get_rank(), whole)
        return start, min(start + size, whole)
    fragment = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's, as above
    if fragment is None:
        return 0, 0
    address = fragment.lp_fragment_address
    return address.start, address.start + address.numel


@torch.no_grad()
def write_own_state(engine: TrainingEngine, parameter: nn.Parameter, state: Mapping[str, torch.Tensor]) -> None:
    """Write the rank's share of a parameter's master copy and moments, by name: float32, shape (own_range's length,).

    Call `refresh_parameters` after the last parameter.
    """
    for name, value in state.items():
        if engine.zero_stage == 0:
            target = parameter if name == MASTER else adam_of(engine).state[parameter][name]
            target.copy_(value.view(target.shape))
        elif engine.zero_stage == 3:
            shard = parameter.ds_tensor  # type: ignore[attr-defined]
            padded = torch.zeros(shard.numel(), dtype=value.dtype)
            padded[: value.numel()] = value
            if name == MASTER:
                safe_set_local_fp32_param(parameter, padded)
                shard.data.copy_(padded)
            else:
                safe_set_local_optimizer_state(parameter, padded, name)
        elif value.numel():
            fragment = parameter._hp_mapping  # type: ignore[attr-defined]
            fragment.get_hp_fragment(None if name == MASTER else name).copy_(value)


def refresh_parameters(engine: TrainingEngine) -> None:
    """Give the parameters of all ranks the values of their master copies. All ranks must call it together."""
    optimizer = engine.deepspeed.optimizer
    if engine.zero_stage in (1, 2):
        optimizer.update_lp_params()
    elif engine.zero_stage == 3 and optimizer.persistent_parameters:
        # Every rank has these whole: gathered before their shards were written.
        one, *_ = optimizer.persistent_parameters
        one.partition(optimizer.persistent_parameters)
        one.all_gather(optimizer.persistent_parameters)

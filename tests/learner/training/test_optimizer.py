"""AdamW makes one pass over its state, wherever that is, and takes the steps of the version with several passes."""

import pytest
import torch
from support.learner import counts_of, parameters_of

from learner.training.optimizer_state import adam_of

FUSED = torch.optim.AdamW


def unfused(*arguments, **settings):
    return FUSED(*arguments, **{**settings, "fused": False})


@pytest.mark.parametrize(
    "chosen",
    [{"zero_stage": 0}, *({"zero_stage": stage, "offload_optimizer": True} for stage in (1, 2, 3))],
    ids=lambda chosen: f"ZeRO-{chosen['zero_stage']}{', offloaded' * ('offload_optimizer' in chosen)}",
)
def test_the_fused_steps_equal_the_others(make_rank, groups, monkeypatch, chosen):
    found = []
    for adam in (FUSED, unfused):
        monkeypatch.setattr(torch.optim, "AdamW", adam)
        rank = make_rank(**chosen)
        before = parameters_of(rank)
        for _ in range(3):
            rank.learn(groups, counts_of(groups))
        assert all(group["fused"] is (adam is FUSED) for group in adam_of(rank.engine).param_groups)
        found.append(parameters_of(rank))
    moved = max(float((found[0][name] - value).abs().max()) for name, value in before.items())
    difference = max(float((found[0][name] - value).abs().max()) for name, value in found[1].items())
    print(f"{chosen}: {difference:.1e} of {moved:.1e}")
    assert difference < 1e-5 * moved + 1e-7

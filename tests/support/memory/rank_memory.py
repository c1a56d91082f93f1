"""One rank of `model_states`: DeepSpeed engines, and the bytes of all tensors that exist while they work.

`python -m support.memory.rank_memory RANK RANKS PORT CASES` writes a JSON line for each case: a mapping with the keys
of LearnerSettings, and `rank`, that of adapters, or `frozen`. On a CPU, offloaded tensors count with the others.
"""

import gc
import json
import logging
import sys
import weakref
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from learner.settings import LearnerSettings
from learner.training import engine
from orchestrator.job.memory.model_states import Buffers

WIDTH, LAYERS, TOWER_LAYERS, HEAD = 128, 16, 3, 512
SMALL = Buffers(reduce=60_000, live=100_000, group=100_000)
"""Smaller than the model, as the real ones are smaller than real models."""
MICRO_BATCHES = 3


class Allocations(TorchDispatchMode):
    """Counts the bytes of the storages that exist, and their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                self._add(leaf.untyped_storage())
        return out

    def take_peak(self) -> int:
        peak, self.peak = self.peak, self.now
        return peak

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._live:
            self._live[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)


class Model(nn.Module):
    """Linear layers, so that their parameters are all there is."""

    def __init__(self, dtype: torch.dtype, rank: int, frozen: bool) -> None:
        super().__init__()

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=False, dtype=dtype)

        self.tower = nn.Sequential(*[linear(WIDTH, WIDTH) for _ in range(TOWER_LAYERS)])
        self.layers = nn.Sequential(*[linear(WIDTH, WIDTH) for _ in range(LAYERS)])
        self.head = linear(WIDTH, HEAD)
        for part in (self,) if rank else (self.tower,) if frozen else ():
            part.requires_grad_(False)
        self.adapter = nn.Sequential(linear(WIDTH, rank), linear(rank, WIDTH)) if rank else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tower(x)
        if self.adapter is not None:
            x = x + self.adapter(x)
        return self.head(self.layers(x))


def measure(ranks: int, case: dict[str, Any]) -> dict[str, int]:
    """Return bytes after a step, and the most before, within the backward pass, and within the optimizer's step."""
    rank, frozen = case.pop("rank", 0), case.pop("frozen", False)
    settings = LearnerSettings.model_validate({"ranks": ranks, **case})
    dtype = getattr(torch, settings.dtype)
    gc.collect()
    found = {}
    with Allocations() as allocations:
        model = Model(dtype, rank, frozen)
        sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
        made = engine.TrainingEngine(model, settings, settings.optimizer, 10)
        found["starting"] = allocations.take_peak()
        update = made._update

        def measured_update() -> float:
            found["backward"] = allocations.take_peak()
            return update()

        made._update = measured_update  # type: ignore[method-assign]
        for _ in range(2):
            # The first step makes the optimizer's state.
            allocations.take_peak()
            made.step([lambda policy: policy(torch.ones(1, WIDTH, dtype=dtype)).float().pow(2).mean()] * MICRO_BATCHES)
            found["step"] = allocations.take_peak()
            gc.collect()
            found["held"] = allocations.now
    made._update = update  # type: ignore[method-assign]
    made.close()
    trained = [size for size, trains in sizes if trains]
    return found | {
        "total": sum(size for size, _ in sizes),
        "trained": sum(trained),
        "largest": max(size for size, _ in sizes),
        "largest_trained": max(trained),
    }


def _configuration(settings: LearnerSettings, max_grad_norm: float) -> dict[str, Any]:
    """Return the learner's configuration with `SMALL` buffers, and every parameter divided."""
    found = _learners(settings, max_grad_norm)
    found["zero_optimization"] |= {
        "reduce_bucket_size": SMALL.reduce,
        "stage3_max_live_parameters": SMALL.live,
        "stage3_max_reuse_distance": SMALL.live,
        "stage3_prefetch_bucket_size": SMALL.live // 20,
        "sub_group_size": SMALL.group,
        "stage3_param_persistence_threshold": 0,
    }
    return found


_learners = engine.configuration


def main() -> None:
    rank, ranks, port = map(int, sys.argv[1:4])
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    engine.configuration = _configuration
    engine.join(rank, ranks, "127.0.0.1", port, 60)
    for case in json.loads(sys.argv[4]):
        print("FOUND", json.dumps(measure(ranks, case)), flush=True)
    engine.shut_down()


if __name__ == "__main__":
    main()

"""The DeepSpeed engine: torch.distributed, optimizer steps over micro-batches, gathering of parameters.

Invariant: a step in which any loss or gradient of any rank is not finite changes no parameter and no optimizer state
on any rank.
"""

import gc
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed
from deepspeed.runtime.zero import parameter_offload
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator
from torch import distributed, nn
from torch._C._distributed_c10d import TCPStore

from learner.schedule import learning_rate
from learner.settings import LearnerSettings, OptimizerSettings

# DeepSpeed would compile its shared-memory collectives at the first start, which takes minutes; gloo needs no compiler.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

PERSISTENT_ELEMENTS = 100_000
"""Largest parameter that ZeRO-3 keeps whole on every rank: DeepSpeed's default."""


def join(rank: int, ranks: int, address: str, port: int, timeout_seconds: float) -> None:
    """Initialize torch.distributed before DeepSpeed does.

    DeepSpeed would pass a device id, which is known to make weight sync hang.
    """
    # With TF32 the convolutions of an audio tower would keep only 10 bits of a float32 mantissa.
    torch.backends.cudnn.allow_tf32 = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(ranks), MASTER_ADDR=address, MASTER_PORT=str(port))
    timeout = timedelta(seconds=timeout_seconds)
    distributed.init_process_group(
        backend, store=_store(rank, ranks, address, port, timeout), rank=rank, world_size=ranks, timeout=timeout
    )
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def _store(rank: int, ranks: int, address: str, port: int, timeout: timedelta) -> TCPStore:
    """Return the store through which the ranks find one another. The first rank's listens on its address only."""
    if rank:
        return TCPStore(address, port, ranks, is_master=False, timeout=timeout)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # By itself, torch listens on all interfaces.
    listener = socket.create_server((address, port), family=family, backlog=max(128, ranks))
    return TCPStore(
        address,
        port,
        ranks,
        is_master=True,
        timeout=timeout,
        master_listen_fd=listener.detach(),
        wait_for_workers=False,
    )


def shut_down() -> None:
    """Shut torch.distributed down. Without this, a ZeRO-3 process aborts at exit."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def zero_stage(settings: LearnerSettings) -> int:
    """Return the ZeRO stage of DeepSpeed: at least 1 with bfloat16, because only then it has float32 master weights."""
    return settings.zero_stage if settings.dtype == "float32" else max(1, settings.zero_stage)


def configuration(settings: LearnerSettings, max_grad_norm: float) -> dict[str, Any]:
    """Return DeepSpeed's configuration."""
    zero: dict[str, Any] = {
        "stage": zero_stage(settings),
        "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS,
    }
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if settings.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        # The number of micro-batches varies from step to step; `step` sets the accumulation boundary.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        # torch's own optimizer, also with offloading: DeepSpeed's has to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 2**31,
    }


def release_cached_memory() -> int:
    """Return this process's unused GPU memory to the GPU's other processes. Return its size in bytes, 0 on a CPU.

    torch keeps freed memory for itself, so an engine on the same GPU would not find it.
    """
    if not torch.cuda.is_available():
        return 0
    # Cycles hold tensors until Python's collector runs.
    gc.collect()
    reserved = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    return reserved - torch.cuda.memory_reserved()


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The outcome of one optimizer step."""

    grad_norm: float
    """Norm before clipping; not finite if the step was skipped."""
    learning_rate: float
    applied: bool
    """True if parameters changed; false if a loss or a gradient was not finite."""


class TrainingEngine:
    """A DeepSpeed engine around a policy, for one phase of `total_steps` optimizer steps."""

    def __init__(
        self, policy: nn.Module, settings: LearnerSettings, optimizer: OptimizerSettings, total_steps: int
    ) -> None:
        self._optimizer = optimizer
        self._total_steps = total_steps
        self._world = distributed.get_world_size()
        self.zero_stage = zero_stage(settings)
        trained = [p for p in policy.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": optimizer.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adam = torch.optim.AdamW(
            [g for g in groups if g["params"]],
            lr=optimizer.learning_rate,
            betas=(optimizer.adam_beta1, optimizer.adam_beta2),
            eps=optimizer.adam_epsilon,
            # One pass over a parameter's state instead of one for each operation, and no temporaries of its size.
            fused=True,
        )
        self.deepspeed, *_ = deepspeed.initialize(
            model=policy, optimizer=adam, config=configuration(settings, optimizer.max_grad_norm)
        )
        self.step_count = 0
        """Completed steps of the schedule, including skipped ones."""

    def step(self, losses: Sequence[Callable[[nn.Module], torch.Tensor]]) -> StepOutcome:
        """Take one optimizer step on the sum of the micro-batches' losses over all ranks.

        Args:
            losses: one per micro-batch, called with the engine to run the forward; the same number on every rank.
        """
        rate = learning_rate(
            self.step_count,
            total=self._total_steps,
            peak=self._optimizer.learning_rate,
            warmup=self._optimizer.warmup_steps,
            schedule=self._optimizer.schedule,
        )
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate
        for i, loss_of in enumerate(losses):
            self.deepspeed.set_gradient_accumulation_boundary(i == len(losses) - 1)
            loss = loss_of(self.deepspeed)
            # A non-finite loss makes every gradient NaN, so the check of the gradients finds it on all ranks.
            weight = self._world if math.isfinite(float(loss.detach())) else math.nan
            # DeepSpeed averages gradients over ranks; the batch's loss is a sum over them.
            self.deepspeed.backward(loss * weight)
        self.step_count += 1
        norm = self._update()
        return StepOutcome(norm, rate, math.isfinite(norm))

    def _update(self) -> float:
        """Step the optimizer unless a gradient is not finite. Return the gradients' norm before clipping."""
        if self.zero_stage > 0:
            # ZeRO's own optimizers skip a step whose gradient norm is not finite, and reset their gradient buffers.
            self.deepspeed.step()
            if self.deepspeed.optimizer.overflow:
                return math.nan
            return float(self.deepspeed.get_global_grad_norm() or 0.0)
        parameters = [p for p in self.deepspeed.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if math.isfinite(norm):
            self.deepspeed.step()
        else:
            self.drop_gradients()
        return norm

    def drop_gradients(self) -> None:
        """Discard the gradients of a skipped step. For stage 0 only: ZeRO's optimizers keep gradients elsewhere."""
        for parameter in self.deepspeed.module.parameters():
            parameter.grad = None

    def skip(self) -> None:
        """Advance the schedule by a step without an update."""
        self.step_count += 1

    @contextmanager
    def gathered(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Gather the full values of the parameters on every rank within the context. All ranks must enter together."""
        if self.zero_stage < 3:
            yield
            return
        # Several weights of a checkpoint may be parts of one parameter.
        with deepspeed.zero.GatheredParameters(list(dict.fromkeys(parameters))):
            yield

    def close(self) -> None:
        """Take DeepSpeed apart, so that model and optimizer are freed with their last reference outside of it."""
        module = self.deepspeed.module
        self.deepspeed.destroy()
        # For as long as the process lives, DeepSpeed keeps every ZeRO-3 engine through a cache and a list.
        cached: Any = PartitionedParameterCoordinator._PartitionedParameterCoordinator__params_to_release
        for cell in cached.__closure__:
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()
        parameter_offload.FWD_MODULE_STACK[:] = [m for m in parameter_offload.FWD_MODULE_STACK if m is not module]

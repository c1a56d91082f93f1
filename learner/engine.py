"""DeepSpeed in one place: torch.distributed, the engine, a step over micro-batches, the gathering of parameters."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu")

import deepspeed
import torch
from torch import distributed, nn

from learner.schedule import learning_rate
from learner.settings import LearnerSettings, OptimizerSettings

# DeepSpeed would compile its shared-memory collectives at the first start, for minutes; gloo needs no compiler.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def join(rank: int, ranks: int, address: str, port: int, timeout_seconds: float) -> None:
    """Bring up torch.distributed before DeepSpeed does.

    DeepSpeed would pass a device id, which has hung weight sync elsewhere.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(ranks), MASTER_ADDR=address, MASTER_PORT=str(port))
    distributed.init_process_group(
        backend,
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=timeout_seconds),
    )
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def leave() -> None:
    """Take torch.distributed down: a ZeRO-3 process aborts at exit where this was left out."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


class TrainingEngine:
    """A DeepSpeed engine around a policy, for one phase of `total_steps` optimizer steps."""

    def __init__(
        self, policy: nn.Module, settings: LearnerSettings, optimizer: OptimizerSettings, total_steps: int
    ) -> None:
        self._optimizer = optimizer
        self._total_steps = total_steps
        self._world = distributed.get_world_size()
        self.zero_stage = settings.zero_stage
        self._master_weights = settings.dtype != "float32"
        trained = [p for p in policy.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": optimizer.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._engine, *_ = deepspeed.initialize(
            model=policy, model_parameters=[g for g in groups if g["params"]], config=self._configuration(settings)
        )
        self.step_count = 0

    def _configuration(self, settings: LearnerSettings) -> dict[str, Any]:
        optimizer = self._optimizer
        return {
            # Micro-batches differ from step to step; the boundary is set by hand in `step`.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": optimizer.max_grad_norm,
            "zero_optimization": {"stage": settings.zero_stage},
            "bf16": {"enabled": settings.dtype == "bfloat16"},
            "optimizer": {
                "type": "AdamW",
                "params": {
                    "lr": optimizer.learning_rate,
                    "betas": [optimizer.adam_beta1, optimizer.adam_beta2],
                    "eps": optimizer.adam_epsilon,
                    "weight_decay": optimizer.weight_decay,
                    "torch_adam": True,
                },
            },
            "steps_per_print": 2**31,
        }

    def step(self, losses: Sequence[Callable[[nn.Module], torch.Tensor]]) -> dict[str, float]:
        """One optimizer step on the sum of the micro-batches' losses, and over all ranks.

        Args:
            losses: one a micro-batch, each called with the engine to run the forward; the same number on every rank.

        Returns:
            The gradient's norm before clipping and the learning rate used.

        Raises:
            FloatingPointError: a loss is not finite. Nothing was updated on any rank.
        """
        rate = learning_rate(
            self.step_count,
            total=self._total_steps,
            peak=self._optimizer.learning_rate,
            warmup=self._optimizer.warmup_steps,
            schedule=self._optimizer.schedule,
        )
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        finite = torch.ones(1)
        for i, loss_of in enumerate(losses):
            self._engine.set_gradient_accumulation_boundary(i == len(losses) - 1)
            loss = loss_of(self._engine)
            finite *= float(torch.isfinite(loss.detach()))
            # DeepSpeed averages gradients over ranks; the batch's loss is a sum over them.
            self._engine.backward(loss * self._world)
        distributed.all_reduce(finite, op=distributed.ReduceOp.MIN)
        if not finite.item():
            raise FloatingPointError(f"the loss of optimizer step {self.step_count} is not finite")
        norm = self._own_grad_norm()
        self._engine.step()
        self.step_count += 1
        if norm is None:
            norm = float(self._engine.get_global_grad_norm() or 0.0)
        return {"grad_norm": norm, "learning_rate": rate}

    def _own_grad_norm(self) -> float | None:
        """The gradients' norm before clipping where DeepSpeed keeps none: plain float32 without ZeRO."""
        if self.zero_stage > 0 or self._master_weights:
            return None
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def skip(self) -> None:
        """Let a step pass in which there was nothing to learn: the schedule goes on."""
        self.step_count += 1

    @contextmanager
    def whole(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Within, the given parameters hold their full values on every rank. All ranks must enter together."""
        if self.zero_stage < 3:
            yield
            return
        with deepspeed.zero.GatheredParameters(list(parameters)):
            yield

    def close(self) -> None:
        self._engine.destroy()

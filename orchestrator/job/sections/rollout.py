"""Generation of completions."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from orchestrator.schemas.api import MOST_WORKERS
from protocol.engine import EngineOptions
from protocol.marks import Resume
from protocol.settings import Settings
from protocol.weights import Carrier
from rollout_workers.limits import RolloutLimits

MOST_GPUS_PER_WORKER = 64
"""Maximum number of GPUs of one rollout worker: they are GPUs of one node."""
LEAST_GPUS = 0.0001
"""The smallest part of a GPU that Ray counts."""


class AutoscaleSection(Settings):
    """The number of rollout workers grows while the learner waits for rollouts, and shrinks while workers wait."""

    min: int = Field(default=1, ge=1, le=MOST_WORKERS)
    """Minimum number of rollout workers."""
    max: int = Field(ge=1, le=MOST_WORKERS)
    """Maximum number of rollout workers."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "AutoscaleSection":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is greater than max ({self.max}): swap them")
        return self


class RolloutSection(Settings):
    """Generation of completions."""

    workers: Annotated[int, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=1, ge=1, le=MOST_WORKERS)
    """Number of rollout workers, each a vLLM engine."""
    group_size: int = Field(default=8, ge=2, le=4096)
    """Completions per question, G. At least 2: advantages compare the completions of a group."""
    questions_per_step: int = Field(default=16, ge=1, le=65_536)
    """Questions per learner step."""
    max_staleness: Annotated[int, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=0, ge=0, le=1024)
    """Maximum age of a sample, in weight versions. With 0, training is strictly on-policy; above 0, rollouts for later
    steps continue while the learner works."""
    max_refills: int = Field(default=3, ge=0, le=1024)
    """Maximum number of further draws for one step with dynamic sampling, before it trains on fewer groups."""
    max_tokens: int = Field(default=256, ge=1, le=2**20)
    """Maximum length of a completion, in tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; the learner's log-probabilities use it, too."""
    max_concurrent: Annotated[int, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=128, ge=1, le=65_536)
    """Maximum number of sequences that an engine decodes at once."""
    threads: Annotated[int, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=0, ge=0, le=4096)
    """CPU threads per engine; 0 divides the machine's cores among the workers."""
    gpus: Annotated[float, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=0, ge=0, le=MOST_GPUS_PER_WORKER)
    """GPUs of each rollout worker: 0, a fraction, or `tensor_parallel`. Above 0 each learner rank has a GPU, too; 0
    runs workers and learner on CPUs. Whole GPUs with `weight_sync: nccl`; with `cuda_ipc` a fraction, and the
    learner's ranks have the rest of those GPUs: each has one worker and one rank, never two."""
    tensor_parallel: Annotated[int, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=1, ge=1, le=MOST_GPUS_PER_WORKER)
    """GPUs that share each engine's model (tensor parallelism), all on one node, for a model that one GPU does not
    hold: with GPUs, `gpus` is the same number. It divides the model's attention heads. To use more GPUs for a model
    that one GPU holds, raise `workers` instead."""
    gpu_memory_fraction: Annotated[float, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=0.85, gt=0, le=1)
    """Fraction of a GPU's memory that an engine uses."""
    engine: EngineOptions = EngineOptions()
    """Further arguments of the engines, under vLLM's names."""
    cpu_kv_gib: Annotated[int, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=1, ge=1, le=65_536)
    """Key-value cache of an engine on the CPU, in GiB."""
    weight_sync: Annotated[Carrier, Resume.FREE] = Carrier.SHARED_MEMORY
    """Carrier of weight updates: `shared_memory` on the learner's machine (workers on other machines use the object
    store), Ray's `object_store` for any worker, `nccl` between GPUs, `cuda_ipc` on GPUs shared with the learner."""
    weight_checksums: Annotated[bool, Resume.FREE] = False
    """Verify checksums: every engine compares the bytes it is about to load with those that the learner sent."""
    autoscale: Annotated[AutoscaleSection | None, Resume.FREE_UNLESS_DETERMINISTIC] = None
    """Adapt the number of workers during the job; without this section it is `workers`. The number shrinks only if
    `max_staleness` is above 0."""
    limits: Annotated[RolloutLimits, Resume.FREE] = RolloutLimits()
    """Timeouts, and how often workers and questions may fail."""

    @model_validator(mode="after")
    def _check_gpus_of_carrier(self) -> "RolloutSection":
        if self.weight_sync is Carrier.NCCL and self.gpus < 1:
            raise ValueError("weight_sync nccl needs whole GPUs for the rollout workers: set gpus to 1 or more")
        if self.weight_sync is Carrier.CUDA_IPC and not 0 < self.gpus < 1:
            raise ValueError("weight_sync cuda_ipc needs GPUs shared with the learner: set gpus between 0 and 1")
        return self

    @model_validator(mode="after")
    def _check_gpus_of_engine(self) -> "RolloutSection":
        if self.tensor_parallel > 1 and self.weight_sync is Carrier.CUDA_IPC:
            raise ValueError(
                "tensor_parallel above 1 needs whole GPUs, and with weight_sync cuda_ipc each worker has part of one: "
                "set weight_sync to nccl and gpus to tensor_parallel, or leave tensor_parallel out"
            )
        if 0 < self.gpus < LEAST_GPUS and self.weight_sync is not Carrier.CUDA_IPC:
            raise ValueError(f"gpus {self.gpus:g} is less than Ray counts: set it to 0, or to at least {LEAST_GPUS}")
        whole = self.tensor_parallel > 1 or self.gpus > 1
        if whole and self.gpus and self.gpus != self.tensor_parallel:
            raise ValueError(
                f"an engine uses tensor_parallel GPUs ({self.tensor_parallel}), and gpus is {self.gpus:g}: set both to "
                "the same number; for more GPUs than an engine needs, raise workers"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _refuse_truncated_sampling(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        off = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
        for key, neutral in off.items():
            if value.get(key, neutral) != neutral:
                raise ValueError(
                    f"{key} other than {neutral} is not supported: the learner computes log-probabilities over the "
                    "whole softmax, so they would not match the sampling distribution; leave it out"
                )
        return {key: item for key, item in value.items() if key not in off}

"""Generation."""

from typing import Any

from pydantic import Field, model_validator

from orchestrator.job.sections.section import Section
from protocol.weights import Carrier
from rollout_workers.limits import RolloutLimits


class AutoscaleSection(Section):
    """More rollout workers while the learner waits for rollouts, fewer while they wait for it."""

    min: int = Field(default=1, ge=1)
    """Never fewer."""
    max: int = Field(ge=1)
    """Never more."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "AutoscaleSection":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max}): exchange them")
        return self


class RolloutSection(Section):
    """Generation."""

    workers: int = Field(default=1, ge=1)
    """Rollout workers: vLLM engines."""
    group_size: int = Field(default=8, ge=2)
    """Completions a question, G; at least 2, for a group of one has nothing to compare with."""
    questions_per_step: int = Field(default=16, ge=1)
    """Questions drawn for one learner step."""
    max_staleness: int = Field(default=0, ge=0)
    """How many versions older than the learner's the weights may be that sampled what it learns from. Above 0,
    rollouts of later steps go on while the learner works; 0 is strictly on-policy."""
    max_refills: int = Field(default=3, ge=0)
    """With dynamic sampling: how often further questions are drawn for one step, before it makes do with fewer."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest completion."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling; the learner scores the same distribution."""
    max_concurrent: int = Field(default=128, ge=1)
    """Sequences an engine decodes at once."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of an engine; 0 divides the machine's cores among the workers."""
    gpus: float = Field(default=0, ge=0)
    """GPUs of a worker; 0 runs it on the CPU."""
    gpu_memory_fraction: float = Field(default=0.85, gt=0, le=1)
    """Share of a GPU's memory that an engine takes."""
    cpu_kv_gib: int = Field(default=1, ge=1)
    """Key-value cache of an engine on the CPU, GiB."""
    weight_sync: Carrier = Carrier.SHARED_MEMORY
    """What carries new weights: shared_memory of the learner's machine, and for workers elsewhere the object store;
    Ray's object_store, anywhere; nccl, between GPUs; cuda_ipc, on GPUs shared with the learner."""
    weight_checksums: bool = False
    """Have every engine compare the bytes it is about to load with those the learner sent."""
    autoscale: AutoscaleSection | None = None
    """Let the job choose how many workers it has; without this section it has `workers`. It gives some up only where
    `max_staleness` is above 0."""
    limits: RolloutLimits = RolloutLimits()
    """Deadlines, and how often workers and questions may fail."""

    @model_validator(mode="after")
    def _carrier_has_its_gpus(self) -> "RolloutSection":
        if self.weight_sync is Carrier.NCCL and self.gpus < 1:
            raise ValueError("weight_sync nccl needs whole GPUs for the rollout workers: set gpus to 1 or more")
        if self.weight_sync is Carrier.CUDA_IPC and not 0 < self.gpus < 1:
            raise ValueError("weight_sync cuda_ipc needs GPUs shared with the learner: set gpus between 0 and 1")
        return self

    @model_validator(mode="before")
    @classmethod
    def _full_softmax_only(cls, value: Any) -> Any:
        for key, off in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
            if isinstance(value, dict) and key in value and value.pop(key) != off:
                raise ValueError(
                    f"{key} other than {off} is not offered: the learner scores the whole softmax, so its "
                    "log-probabilities would not be those of what was sampled; leave it out"
                )
        return value

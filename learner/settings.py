"""What a job says about its learner. The defaults are the paper's."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from learner.schedule import Schedule


class OptimizerSettings(BaseModel):
    """AdamW and its schedule."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    schedule: Schedule = Schedule.LINEAR
    """How the rate moves after the warm-up: constant, linear, cosine."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay of the first moment."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's decay of the second moment."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's term against division by zero."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""


class LearnerSettings(BaseModel):
    """The DeepSpeed learner."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ranks: int = Field(default=1, ge=1)
    """Learner processes; on a GPU cluster, one a GPU."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed shards over the ranks: 1 optimizer, 2 and gradients, 3 and parameters."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters in forward and backward; bfloat16 keeps float32 master weights."""
    beta: float = Field(default=0.04, ge=0)
    """Weight of the KL term against the frozen reference; 0 loads no reference at all."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW, its schedule and gradient clipping."""
    micro_batch_tokens: int = Field(default=16_384, ge=1)
    """Padded tokens of one forward and backward; the update does not depend on it."""
    share_prefix: bool = True
    """Compute a group's prompt and audio once, instead of once for every completion."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of a rank; 0 divides the machine's cores among the ranks."""
    timeout_seconds: float = Field(default=1800.0, gt=0)
    """A step that takes longer counts as hung."""

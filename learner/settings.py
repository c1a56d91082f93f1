"""What a job says about its learner. The defaults are the paper's."""

from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learner.losses.settings import LossSettings
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


class TrainSettings(BaseModel):
    """Which parts of the model train; the others are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    audio_tower: bool = True
    """Frozen, its output is computed once for each clip and kept."""
    projector: bool = True
    """From the audio tower's output to the language model's embeddings."""
    language_model: bool = True
    """The head included."""

    @model_validator(mode="after")
    def _something_trains(self) -> Self:
        if not (self.audio_tower or self.projector or self.language_model):
            raise ValueError("nothing would train: leave audio_tower, projector or language_model on")
        return self


class LoraSettings(BaseModel):
    """Low-rank adapters on the linear layers of the parts that train, in place of all their parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    """Inner dimension of an adapter."""
    alpha: int = Field(default=32, ge=1)
    """An adapter's product is scaled by alpha / rank."""


class AudioCacheSettings(BaseModel):
    """Where the outputs of a frozen audio tower are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_gib: float = Field(default=1.0, ge=0)
    """Kept in the memory of each rank, GiB; a 30 s clip of Qwen2-Audio takes 1.9 MB in bfloat16."""
    folder: str | None = None
    """Kept on disk too, for later epochs and runs; nothing is without it."""


class SharePrefix(StrEnum):
    """When a group's prompt and audio are computed once instead of once for every completion."""

    AUTO = "auto"
    """Where it takes fewer operations: nearly always."""
    ALWAYS = "always"
    NEVER = "never"


class LearnerSettings(BaseModel):
    """The DeepSpeed learner."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ranks: int = Field(default=1, ge=1)
    """Learner processes; on a GPU cluster, one a GPU."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed shards over the ranks: 1 optimizer, 2 and gradients, 3 and parameters; bfloat16: at least 1."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the CPU's memory; needs zero_stage 1 or more."""
    offload_parameters: bool = False
    """Keep parameters in the CPU's memory while they are not used; needs zero_stage 3."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters in forward and backward; bfloat16 keeps float32 master weights."""
    activation_checkpointing: bool = False
    """Keep the layers' inputs only for the backward pass and compute the rest again: less memory, a third more time."""
    compile: bool = False
    """Compile the decoder's layers, on GPUs, zero_stage below 3: the first step takes longer, the others less time."""
    train: TrainSettings = TrainSettings()
    """Which parts of the model train."""
    lora: LoraSettings | None = None
    """Train low-rank adapters in place of all parameters; none without this section."""
    beta: float = Field(default=0.04, ge=0)
    """Weight of the KL term against the frozen reference; 0 loads no reference at all."""
    loss: LossSettings = LossSettings()
    """Algorithm, clipping and importance weights."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW, its schedule and gradient clipping."""
    micro_batch_tokens: int = Field(default=16_384, ge=1)
    """Tokens of one forward and backward; the update does not depend on it."""
    share_prefix: SharePrefix = SharePrefix.AUTO
    """Compute a group's prompt and audio once, instead of once for every completion."""
    audio_cache: AudioCacheSettings = AudioCacheSettings()
    """Of a frozen audio tower."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of a rank; 0 divides the machine's cores among the ranks."""
    timeout_seconds: float = Field(default=1800.0, gt=0)
    """A step that takes longer counts as hung."""
    max_restarts: int = Field(default=3, ge=0)
    """How often ranks that died or hung are started again from the last checkpoint, before the job fails."""
    max_nonfinite_steps: int = Field(default=3, ge=1)
    """So many updates in a row that were stopped by a loss or gradient that is not finite end the job."""

    @model_validator(mode="after")
    def _offloading_needs_its_stage(self) -> Self:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError("offload_parameters needs zero_stage 3")
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile needs zero_stage below 3, which gathers parameters in the middle of layers")
        return self

"""Settings of the learner. The defaults are the paper's."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from learner.losses.settings import LossSettings
from learner.schedule import Schedule
from protocol.marks import PathTo, Resume
from protocol.settings import Settings


class OptimizerSettings(Settings):
    """AdamW and its learning rate schedule."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    schedule: Schedule = Schedule.LINEAR
    """Learning rate schedule after the warm-up: constant, linear or cosine decay to zero."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay, applied to matrices only."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the first moment."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay rate of the second moment."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Term in the denominator that prevents division by zero."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Maximum global norm of the gradient; larger gradients are scaled down."""


class TrainSettings(Settings):
    """Parts of the model that are trained; the others are frozen."""

    audio_tower: bool = True
    """Train the audio encoder. If it is frozen, its output is computed once per clip and cached."""
    projector: bool = True
    """Train the projector from the audio tower's output to the language model's embeddings."""
    language_model: bool = True
    """Train the language model, its head included; experts and their routers stay as they are."""

    @model_validator(mode="after")
    def _check_something_trains(self) -> Self:
        if not (self.audio_tower or self.projector or self.language_model):
            raise ValueError("nothing would be trained: set audio_tower, projector or language_model to true")
        return self


class LoraSettings(Settings):
    """Low-rank adapters (LoRA) on the linear layers of the trained parts, instead of full fine-tuning."""

    rank: int = Field(default=16, ge=1, le=65_536)
    """Rank of an adapter: its inner dimension."""
    alpha: int = Field(default=32, ge=1)
    """Scale of an adapter: its output is multiplied by alpha / rank."""


class AudioCacheSettings(Settings):
    """Cache of the outputs of a frozen audio tower."""

    memory_gib: float = Field(default=1.0, ge=0, le=65_536)
    """Size of the cache in the memory of each rank, in GiB; a 30 s clip of Qwen2-Audio takes 1.9 MB in bfloat16."""
    folder: Annotated[str | None, PathTo.CACHE] = None
    """Folder of a cache on disk, for later epochs and runs; by default there is none."""


class SharePrefix(StrEnum):
    """Sharing of the computation of a group's prompt and audio among its completions."""

    AUTO = "auto"
    """Once if that takes fewer operations, which is nearly always the case."""
    ALWAYS = "always"
    """Once."""
    NEVER = "never"
    """Once per completion."""


class LearnerSettings(Settings):
    """The DeepSpeed learner."""

    ranks: Annotated[int, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=1, ge=1, le=4096)
    """Number of learner processes; one per GPU."""
    zero_stage: Annotated[Literal[0, 1, 2, 3], Resume.FREE_UNLESS_DETERMINISTIC] = 0
    """DeepSpeed ZeRO stage: 1 shards the optimizer state over the ranks, 2 gradients too, 3 parameters too. bfloat16
    needs at least 1."""
    offload_optimizer: Annotated[bool, Resume.FREE_UNLESS_DETERMINISTIC] = False
    """Keep the optimizer state in CPU memory; needs zero_stage 1 or more."""
    offload_parameters: Annotated[bool, Resume.FREE_UNLESS_DETERMINISTIC] = False
    """Keep parameters in CPU memory while they are not in use; needs zero_stage 3."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters in the forward and backward pass; bfloat16 keeps float32 master weights."""
    activation_checkpointing: Annotated[bool, Resume.FREE_UNLESS_DETERMINISTIC] = False
    """Store only the inputs of each layer and recompute its activations in the backward pass: less memory, about a
    third more time."""
    compile: bool = False
    """Compile the decoder layers with torch.compile: the first step takes longer, the others less time. Needs GPUs and
    zero_stage below 3."""
    train: TrainSettings = TrainSettings()
    """Parts of the model that are trained."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all parameters; off without this section."""
    beta: float = Field(default=0.04, ge=0)
    """Weight of the KL term against the frozen reference model; with 0, no reference model is loaded."""
    loss: LossSettings = LossSettings()
    """Algorithm, clipping and importance weights."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW, its learning rate schedule, and gradient clipping."""
    micro_batch_tokens: Annotated[int, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=16_384, ge=1)
    """Maximum tokens of a micro-batch, which is one forward and backward pass. The update does not depend on it."""
    share_prefix: Annotated[SharePrefix, Resume.FREE_UNLESS_DETERMINISTIC] = SharePrefix.AUTO
    """Compute the prompt and audio of a group once, instead of once per completion."""
    audio_cache: Annotated[AudioCacheSettings, Resume.FREE] = AudioCacheSettings()
    """Cache of the outputs of a frozen audio tower."""
    threads: Annotated[int, Resume.FREE_UNLESS_DETERMINISTIC] = Field(default=0, ge=0, le=4096)
    """CPU threads per rank; 0 divides the machine's cores among the ranks."""
    timeout_seconds: Annotated[float, Resume.FREE] = Field(default=1800.0, gt=0)
    """Timeout of a learner step, in seconds; after it the learner counts as hung."""
    start_seconds: Annotated[float, Resume.FREE] = Field(default=1800.0, gt=0)
    """Timeout of a start, in seconds, from when the ranks' processes run: they connect, load the model and, on resume,
    the training state. Waiting for room on the cluster does not count."""
    max_restarts: Annotated[int, Resume.FREE] = Field(default=3, ge=0)
    """Maximum number of restarts of ranks that crashed or hung, from the last checkpoint, before the job fails."""
    max_nonfinite_steps: Annotated[int, Resume.FREE] = Field(default=3, ge=1)
    """Number of consecutive updates skipped for a loss or gradient that is not finite, after which the job fails."""

    @model_validator(mode="after")
    def _check_zero_stage(self) -> Self:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError("offload_parameters needs zero_stage 3")
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile needs zero_stage below 3: stage 3 gathers parameters inside layers")
        return self

"""The job file: what a user says of a run. Unknown keys are errors; defaults are the paper's where it has one."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    field_validator,
    model_validator,
)

from audio_qa.formats.mapped import check_columns
from audio_qa.prompt import PromptTemplate
from learner.losses.settings import CorrectionLevel
from learner.schedule import Schedule
from learner.settings import LearnerSettings, OptimizerSettings
from orchestrator.storage.url import check_url
from orchestrator.tracking.settings import TrackingSettings
from protocol.weights import Carrier
from reward.settings import RewardSettings
from rollout_workers.limits import RolloutLimits

TINY_MODEL = "builtin:tiny-qwen2-audio"
TINY_CONTEXT = 512
"""Tokens the tiny model holds."""
SYNTHETIC = "builtin:synthetic"


class Section(BaseModel):
    """A part of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(StrEnum):
    """What a job's steps are."""

    REINFORCE = "reinforce"
    """Answers are sampled and rewarded."""
    SUPERVISED = "supervised"
    """Right answers are shown."""


class ModelSection(Section):
    """The model that is trained."""

    path: str
    """A folder with a Hugging Face checkpoint and its processor, or `builtin:tiny-qwen2-audio`, which is made here."""
    max_context: int = Field(default=2048, ge=16)
    """Longest prompt plus completion, in tokens; a 30 s clip is 750 of them."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """A clip longer than the model hears: refuse its question, or cut the clip (reported either way)."""


DataFormat = Literal["auto", "earshot", "avqa", "mmau", "mmar", "mmau_pro", "air_bench", "mapped"]


class DataSection(Section):
    """The questions."""

    train: str
    """A question file or its URL, a dataset of Hugging Face's (`hf:OWNER/NAME#SPLIT`, or a saved one's folder), or
    `builtin:synthetic`, which is made here from the job's seed."""
    evaluation: str | None = None
    """Held-out questions, likewise; without them nothing is evaluated. No clip may be in both."""
    format: DataFormat = "auto"
    """How the question file is written; `auto` tells it from its keys."""
    columns: dict[str, str | list[str]] = {}
    """For any other file: by key of Earshot's own schema, the file's column; for `choices` also a list of columns."""
    audio_root: str | None = None
    """Folder or URL that relative clip paths start at; by default the question file's own folder."""
    evaluation_format: DataFormat = "auto"
    """`format` of the held-out questions."""
    evaluation_columns: dict[str, str | list[str]] = {}
    """`columns` of the held-out questions."""
    evaluation_audio_root: str | None = None
    """`audio_root` of the held-out questions."""
    prompt: Annotated[PromptTemplate, BeforeValidator(lambda v: str(v) if isinstance(v, int) else v)] = (
        PromptTemplate.ANSWER
    )
    """How questions are asked: the paper's prompt "1", "2" (answer in tags) or "3" (thinking, then answer)."""
    shuffle: bool = True
    """Draw questions in random order, another one each epoch; the order depends on the seed alone."""
    synthetic_train: int = Field(default=4096, ge=40)
    """Training questions of `builtin:synthetic`."""
    synthetic_evaluation: int = Field(default=300, ge=10)
    """Held-out questions of `builtin:synthetic`."""

    @field_validator("columns", "evaluation_columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        check_columns(columns)
        return columns


class WarmStartOptimizer(OptimizerSettings):
    """AdamW of the warm start: a higher, constant rate."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    schedule: Schedule = Schedule.CONSTANT
    """How the rate moves after the warm-up: constant, linear, cosine."""


class WarmStartSection(Section):
    """A short supervised phase before the reinforcement learning, on right answers to a few training questions."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=32, ge=1)
    """Questions a step."""
    questions: int = Field(default=128, ge=1)
    """How many training questions it sees; they are drawn again until the steps are done."""
    optimizer: WarmStartOptimizer = WarmStartOptimizer()
    """AdamW and its schedule."""


class SupervisedSection(Section):
    """Supervised fine-tuning, where `method` is supervised."""

    batch_size: int = Field(default=16, ge=1)
    """Questions a step."""


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
    weight_sync: Carrier = Carrier.OBJECT_STORE
    """What carries new weights: Ray's object_store, anywhere; nccl, between GPUs; cuda_ipc, on GPUs shared with the
    learner."""
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


class EvaluationSection(Section):
    """Greedy answers to the held-out questions, with the clip and with silence in its place."""

    every: int = Field(default=100, ge=0)
    """Steps between evaluations; 0 evaluates at the start and the end only."""
    questions: int = Field(default=0, ge=0)
    """How many of the held-out questions; 0 takes all."""


class CheckpointSection(Section):
    """Checkpoints: the model, and what the job needs to go on from there; the last step is always kept."""

    every: int = Field(default=100, ge=0)
    """Steps between checkpoints; 0 writes the last one only."""
    keep_last: int = Field(default=0, ge=0)
    """How many of the latest are kept; 0 keeps all."""
    keep_best: bool = True
    """Keep the one that did best on held-out questions too, whatever its age."""


class ClusterSection(Section):
    """Where the job runs."""

    address: str | None = None
    """A Ray cluster's address; without one a Ray is started on this machine for the job, and ended with it."""


class JobSpec(Section):
    """One job."""

    name: str = Field(default="job", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Names the run directory: letters, digits, dot, dash, underscore."""
    seed: int = Field(default=42, ge=0, lt=2**31)
    """Decides question order, samples, and what is built in (the tiny model, the synthetic benchmark)."""
    deterministic: bool = False
    """The same seed gives the same completions and metrics: questions go to workers by rule, in whole batches."""
    method: Method = Method.REINFORCE
    """What the steps are: reinforcement learning, or supervised fine-tuning on the right answers."""
    steps: int = Field(default=1000, ge=0)
    """Learner steps."""
    model: ModelSection
    data: DataSection
    warm_start: WarmStartSection | None = None
    """A short supervised phase first; none without this section."""
    supervised: SupervisedSection = SupervisedSection()
    rollout: RolloutSection = RolloutSection()
    reward: RewardSettings = RewardSettings()
    learner: LearnerSettings = LearnerSettings()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    storage: Annotated[str | None, AfterValidator(lambda url: url and url.rstrip("/"))] = None
    """A URL such as s3://BUCKET/FOLDER, gs://… or file:///FOLDER, under which the run is stored too, checkpoints
    included, by the name of its run directory; credentials come from the environment. Without it, it is not."""
    cluster: ClusterSection = ClusterSection()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="wrap")
    @classmethod
    def _weigh_what_is_stale(cls, data: Any, handler: ModelWrapValidatorHandler["JobSpec"]) -> "JobSpec":
        """Write out how rollouts are weighed where the job file leaves it open, so that it is to be seen."""
        spec = handler(data)
        loss = spec.learner.loss
        if loss.correction.level is not None:
            return spec
        level = CorrectionLevel.TOKEN if spec.rollout.max_staleness else CorrectionLevel.NONE
        correction = loss.correction.model_copy(update={"level": level})
        learner = spec.learner.model_copy(update={"loss": loss.model_copy(update={"correction": correction})})
        return spec.model_copy(update={"learner": learner})

    @model_validator(mode="after")
    def _parts_fit(self) -> "JobSpec":
        if self.storage is not None:
            # Here and not at the field, whose errors show what was given: it may hold a password.
            check_url(self.storage)
        if self.rollout.max_tokens >= self.model.max_context:
            raise ValueError(
                f"rollout.max_tokens ({self.rollout.max_tokens}) leaves no room for a prompt within "
                f"model.max_context ({self.model.max_context}): lower the one or raise the other"
            )
        if self.reward.overlong_tokens > self.rollout.max_tokens:
            raise ValueError(
                f"reward.overlong_tokens ({self.reward.overlong_tokens}) is more than rollout.max_tokens "
                f"({self.rollout.max_tokens}): lower the one or raise the other"
            )
        if self.deterministic and (self.rollout.max_staleness or self.rollout.autoscale):
            raise ValueError(
                "deterministic needs rollout.max_staleness 0 and no rollout.autoscale: both depend on timing; leave "
                "one of them out"
            )
        if self.rollout.max_staleness and self.rollout.weight_sync is Carrier.CUDA_IPC:
            raise ValueError(
                "rollout.max_staleness above 0 needs rollouts and learner at work at once, and with weight_sync "
                "cuda_ipc they take turns on one GPU: set it to 0, or give the rollout workers GPUs of their own"
            )
        if self.method is Method.SUPERVISED and self.warm_start is not None:
            raise ValueError("warm_start is supervised already: with method supervised, leave it out and raise steps")
        return self

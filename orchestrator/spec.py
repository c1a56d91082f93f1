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
from audio_qa.synthetic.benchmark import CATEGORIES
from learner.losses.settings import CorrectionLevel
from learner.schedule import Schedule
from learner.settings import LearnerSettings, OptimizerSettings
from orchestrator.gpu import Gpu
from orchestrator.storage.url import check_url
from orchestrator.tracking.settings import TrackingSettings
from protocol.weights import Carrier
from reward.settings import RewardSettings
from rollout_workers.limits import RolloutLimits

TINY_MODEL = "builtin:tiny-qwen2-audio"
"""Hears, and has never been asked a question."""
TINY_INSTRUCT = "builtin:tiny-qwen2-audio-instruct"
"""The same model after it was shown how each of the paper's prompts is answered."""
TINY_MODELS = (TINY_MODEL, TINY_INSTRUCT)
TINY_CONTEXT = 512
"""Tokens the tiny model holds."""
SYNTHETIC = "builtin:synthetic"
TO_FILL_IN = "yours:"
"""Begins a path that the user has to put in; what follows says of what."""


class Section(BaseModel):
    """A part of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(StrEnum):
    """What a job's steps are."""

    REINFORCE = "reinforce"
    """Answers are sampled and rewarded."""
    SUPERVISED = "supervised"
    """Right answers are shown."""
    EVALUATE = "evaluate"
    """There are none: held-out questions are asked once."""


class Heard(StrEnum):
    """What is heard in the clip's place: the controls of an evaluation."""

    SILENCE = "silence"
    """Silence of the same length: what is right then comes from the text."""
    SHUFFLED = "shuffled"
    """Another question's clip: what is right then comes from the text, or from hearing anything at all."""


class ModelSection(Section):
    """The model that is trained."""

    path: str
    """A folder with a Hugging Face checkpoint and its processor; or what is made here: `builtin:tiny-qwen2-audio`
    hears, `builtin:tiny-qwen2-audio-instruct` can answer the paper's prompts, too."""
    max_context: int = Field(default=2048, ge=16)
    """Longest prompt plus completion, in tokens; a 30 s clip is 750 of them."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """A clip longer than the model hears: refuse its question, or cut the clip (reported either way)."""


DataFormat = Literal["auto", "earshot", "avqa", "mmau", "mmar", "mmau_pro", "air_bench", "mapped"]


class CurriculumOrder(StrEnum):
    """In which order questions are drawn."""

    LEARNABLE = "learnable"
    """At random, those most often of which some answers are right and some wrong."""
    EASY_FIRST = "easy_first"
    """Each once an epoch, from the one that was solved most often to the one that was solved least."""


class CurriculumSection(Section):
    """Which questions are drawn, by how often they are solved and not all alike; `data.shuffle` does nothing then."""

    order: CurriculumOrder = CurriculumOrder.LEARNABLE
    """`learnable`: at random, in proportion to p (1 - p) with p the share of right answers so far, which every group of
    the job updates; `easy_first`: by falling share in `measured`."""
    measured: str | None = None
    """Where the shares start: a run's `samples.jsonl`, or what `earshot evaluate --samples K --json` printed about the
    training questions. A question that was not measured counts as solved half of the time."""
    min_solve_rate: float = Field(default=0, ge=0, le=1)
    """Questions that `measured` shows solved less often are left out."""
    max_solve_rate: float = Field(default=1, ge=0, le=1)
    """Questions that `measured` shows solved more often are left out."""
    uniform: float = Field(default=0.1, gt=0, le=1)
    """Of `learnable`: the share of draws that go to all questions alike, so that none is given up for good."""

    @model_validator(mode="after")
    def _is_measured(self) -> "CurriculumSection":
        if self.min_solve_rate > self.max_solve_rate:
            raise ValueError(
                f"min_solve_rate ({self.min_solve_rate}) is more than max_solve_rate ({self.max_solve_rate}): "
                "exchange them"
            )
        limited = self.min_solve_rate > 0 or self.max_solve_rate < 1
        if self.measured is None and (limited or self.order is CurriculumOrder.EASY_FIRST):
            raise ValueError("order easy_first and bounds on the solve rate need measured: name a file")
        return self


class DataSection(Section):
    """The questions."""

    train: str
    """A question file or its URL, a dataset of Hugging Face's (`hf:OWNER/NAME#SPLIT`, or a saved one's folder), or
    `builtin:synthetic`, which is made here from the job's seed. With `method: evaluate` it is not read, and may be
    left out."""
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
    unlabelled: bool = False
    """Train without the answers: the training questions need none, and one that stands there is not read. Rewards must
    then do without (`majority`, `format`), and the held-out questions may be about the same clips."""
    curriculum: CurriculumSection | None = None
    """Draw by how often questions are solved; without this section all are drawn alike."""
    synthetic_train: int = Field(default=4096, ge=40)
    """Training questions of `builtin:synthetic`."""
    synthetic_train_categories: list[str] = []
    """Question types of the training questions of `builtin:synthetic`, by default all; held-out ones are of all."""
    synthetic_evaluation: int = Field(default=300, ge=10)
    """Held-out questions of `builtin:synthetic`."""

    @field_validator("columns", "evaluation_columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        check_columns(columns)
        return columns

    @field_validator("synthetic_train_categories")
    @classmethod
    def _known_categories(cls, categories: list[str]) -> list[str]:
        for name in categories:
            if name not in CATEGORIES:
                raise ValueError(f"{name!r} is no question type; choose from {', '.join(CATEGORIES)}")
        return categories


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
    """Answers to the held-out questions: with the clip, and once more with what is heard in its place."""

    every: int = Field(default=100, ge=0)
    """Steps between evaluations; 0 evaluates at the start and the end only."""
    questions: int = Field(default=0, ge=0)
    """How many of the held-out questions; 0 takes all."""
    controls: tuple[Heard, ...] = (Heard.SILENCE,)
    """What else is heard in the clip's place: silence, shuffled (another question's clip); each asks every question
    once more. With `method: evaluate` both by default."""
    samples: int = Field(default=1, ge=1)
    """Answers a question; of several, the majority's counts, and pass@k is told."""
    temperature: float = Field(default=0, ge=0)
    """Of these answers; 0 is greedy, which several answers make no sense with."""

    @model_validator(mode="after")
    def _samples_differ(self) -> "EvaluationSection":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 need a temperature above 0: greedy answers are all the same")
        return self


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
    gpu: Gpu = Gpu.A100
    """Which GPUs there are, for the estimate of `--dry-run` alone."""


class JobSpec(Section):
    """One job."""

    name: str = Field(default="job", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Names the run directory: letters, digits, dot, dash, underscore."""
    seed: int = Field(default=42, ge=0, lt=2**31)
    """Decides question order, samples, and what is built in (the tiny model, the synthetic benchmark)."""
    deterministic: bool = False
    """The same seed gives the same completions and metrics: questions go to workers by rule, in whole batches."""
    method: Method = Method.REINFORCE
    """What the steps are: reinforcement learning, or supervised fine-tuning on the right answers. evaluate has none:
    the held-out questions are asked, and `evaluation.json` and the predictions written."""
    steps: int = Field(default=1000, ge=0)
    """Learner steps; 0 where `method` is evaluate."""
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

    @model_validator(mode="before")
    @classmethod
    def _evaluate_only(cls, value: Any) -> Any:
        """Fill in what a job leaves open that trains nothing, so that it is to be seen."""
        if not isinstance(value, dict) or value.get("method") != Method.EVALUATE:
            return value
        data, evaluation = value.get("data"), value.get("evaluation", {})
        filled = {"steps": 0, **value}
        if isinstance(data, dict):
            if not data.get("evaluation"):
                raise ValueError("data.evaluation is missing: method evaluate asks the questions that it names")
            if "train" not in data:
                keys = {"train": "evaluation"} | {k: f"evaluation_{k}" for k in ("format", "columns", "audio_root")}
                filled["data"] = data | {key: data[name] for key, name in keys.items() if name in data}
        if isinstance(evaluation, dict):
            filled["evaluation"] = {"controls": list(Heard), **evaluation}
        return filled

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
        if self.method is Method.EVALUATE and (self.steps or self.warm_start is not None):
            raise ValueError("method evaluate trains nothing: leave out steps and warm_start")
        if self.deterministic and self.reward.judge is not None:
            raise ValueError(
                "deterministic cannot be kept with a judge, whose replies may differ: leave one of them out"
            )
        if self.method is Method.SUPERVISED and self.data.curriculum is not None:
            raise ValueError(
                "data.curriculum goes by sampled answers, and method supervised samples none: leave it out"
            )
        if self.method is Method.SUPERVISED and self.warm_start is not None:
            raise ValueError("warm_start is supervised already: with method supervised, leave it out and raise steps")
        return self

    @model_validator(mode="after")
    def _nothing_needs_answers_that_are_not_read(self) -> "JobSpec":
        needing = {
            "method supervised": self.method is Method.SUPERVISED,
            "warm_start": self.warm_start is not None,
            "data.curriculum": self.data.curriculum is not None,
            "the reward function 'accuracy'": "accuracy" in self.reward.functions,
            "{answer} in reward.judge.prompt": self.reward.judge is not None and self.reward.judge.reads_answer,
        }
        found = [what for what, needs in needing.items() if needs]
        if self.data.unlabelled and found:
            raise ValueError(
                f"data.unlabelled: the answers are not read, and {found[0]} needs them: leave one of them out"
            )
        return self

"""The job file: what a user says of a run. Unknown keys are errors; defaults are the paper's where it has one."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, model_validator

from learner.losses.settings import CorrectionLevel
from learner.settings import LearnerSettings
from orchestrator.job.gpu import Gpu
from orchestrator.job.sections.data import DataSection
from orchestrator.job.sections.evaluation import AudioControl, EvaluationSection
from orchestrator.job.sections.model import ModelSection
from orchestrator.job.sections.rollout import RolloutSection
from orchestrator.job.sections.section import Section
from orchestrator.job.sections.supervised import SupervisedSection, WarmStartSection
from orchestrator.job.sections.tracking import TrackingSettings
from orchestrator.job.storage_url import check_url
from protocol.weights import Carrier
from reward.settings import RewardSettings

TO_FILL_IN = "yours:"
"""Begins a path that the user has to put in; what follows says of what."""


class Method(StrEnum):
    """What a job's steps are."""

    REINFORCE = "reinforce"
    """Answers are sampled and rewarded."""
    SUPERVISED = "supervised"
    """Right answers are shown."""
    EVALUATE = "evaluate"
    """There are none: held-out questions are asked once."""


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
            filled["evaluation"] = {"controls": list(AudioControl), **evaluation}
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
        if self.learner.compile and not self.rollout.gpus:
            raise ValueError("learner.compile is for GPUs, and with rollout.gpus 0 the learner has none: leave it out")
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

"""The job specification: the model of a job file. Defaults are the paper's where it states a value."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from learner.losses.settings import CorrectionLevel
from learner.settings import LearnerSettings
from orchestrator.job.gpu import Gpu
from orchestrator.job.sections.data import DataSection
from orchestrator.job.sections.engine import engine_problem
from orchestrator.job.sections.evaluation import AudioControl, EvaluationSection
from orchestrator.job.sections.model import ModelSection
from orchestrator.job.sections.rollout import RolloutSection
from orchestrator.job.sections.supervised import SupervisedSection, WarmStartSection
from orchestrator.job.sections.tracking import TrackingSettings
from orchestrator.job.storage_url import check_url
from protocol.marks import Names, Resume
from protocol.settings import Settings
from protocol.weights import Carrier
from reward.settings import RewardSettings

PLACEHOLDER_PREFIX = "yours:"
"""Prefix of a placeholder: a path that the user still has to fill in; the rest names what it is a path to."""


class Method(StrEnum):
    """The training method of a job."""

    REINFORCE = "reinforce"
    """Reinforcement learning: completions are sampled and rewarded."""
    SUPERVISED = "supervised"
    """Supervised fine-tuning on the right answers."""
    EVALUATE = "evaluate"
    """No training: the held-out questions are asked once."""


class CheckpointSection(Settings):
    """Checkpoints: the model, and the training state to resume from. The last step always has one."""

    every: int = Field(default=100, ge=0)
    """Steps between checkpoints; 0 writes the last one only."""
    keep_last: int = Field(default=0, ge=0)
    """Number of latest checkpoints to keep; 0 keeps all."""
    keep_best: bool = True
    """Always keep the checkpoint with the best accuracy on held-out questions."""


class Placement(StrEnum):
    """Nodes of the cluster on which a job's rollout workers run."""

    ANYWHERE = "anywhere"
    """Wherever there is room. New weights reach workers on other nodes than the learner's over the network."""
    ONE_NODE = "one_node"
    """On the learner's node: its room, and that of `rollout.workers` workers, is reserved together on one node."""


class ClusterSection(Settings):
    """The Ray cluster that runs the job."""

    address: Annotated[str | None, Names.CLUSTER] = None
    """Address of a Ray cluster; by default a local Ray is started for the job and stopped when it ends."""
    gpu: Gpu = Gpu.A100
    """GPU type of the cluster, for the estimates of memory and time."""
    check_memory: bool = True
    """Refuse a job whose estimated memory does not fit the GPUs that `gpu` names; false starts it all the same."""
    placement: Placement = Placement.ANYWHERE
    """`anywhere`: rollout workers run wherever there is room, and new weights reach those on other nodes (in
    Kubernetes: in other pods) than the learner's over the network. `one_node`: the room of the learner and of
    `rollout.workers` workers is reserved together on one node, and the job waits for one that has as much; workers
    beyond that number run anywhere. With `rollout.weight_sync: cuda_ipc` workers are on the learner's GPUs anyway."""


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


class JobSpec(Settings):
    """One job."""

    name: Annotated[str, Names.NOTHING] = Field(default="job", pattern=NAME_PATTERN)
    """Name of the job and its run directory: letters, digits, dot, dash, underscore."""
    seed: int = Field(default=42, ge=0, lt=2**31)
    """Seed of the question order, of sampling, and of built-in data (the tiny model, the synthetic benchmark)."""
    deterministic: bool = False
    """The same seed gives the same completions and metrics: questions are assigned to workers by rule, in whole
    batches."""
    method: Method = Method.REINFORCE
    """Reinforcement learning, supervised fine-tuning on the right answers, or an evaluation alone, which asks the
    held-out questions and writes `evaluation.json` and the predictions."""
    steps: Annotated[int, Resume.FREE] = Field(default=1000, ge=0)
    """Number of learner steps; 0 with `method: evaluate`."""
    model: ModelSection
    data: DataSection
    warm_start: WarmStartSection | None = None
    """A short supervised phase before reinforcement learning; none without this section."""
    supervised: SupervisedSection = SupervisedSection()
    rollout: RolloutSection = RolloutSection()
    reward: RewardSettings = RewardSettings()
    learner: LearnerSettings = LearnerSettings()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: Annotated[CheckpointSection, Resume.FREE] = CheckpointSection()
    storage: Annotated[str | None, AfterValidator(lambda url: url and url.rstrip("/")), Resume.FREE, Names.STORAGE] = (
        None
    )
    """URL such as s3://BUCKET/FOLDER, gs://… or file:///FOLDER, where a copy of the run with its checkpoints is stored
    under the name of its run directory. Credentials come from the environment. Default: kept locally only."""
    cluster: Annotated[ClusterSection, Resume.FREE] = ClusterSection()
    tracking: Annotated[TrackingSettings, Resume.FREE] = TrackingSettings()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_evaluate_only(cls, value: Any) -> Any:
        """Fill in the training keys that a job without training leaves out, so that its dump is complete."""
        if not isinstance(value, dict) or value.get("method") != Method.EVALUATE:
            return value
        data = value.get("data")
        given = dict(data) if isinstance(data, DataSection | dict) else None
        if given is not None and not given.get("evaluation"):
            raise ValueError("data.evaluation is missing: method evaluate asks the questions that it names")
        filled = {"steps": 0, **value}
        if given is not None and "train" not in given:
            keys = {"train": "evaluation"} | {k: f"evaluation_{k}" for k in ("format", "columns", "audio_root")}
            filled["data"] = given | {key: given[name] for key, name in keys.items() if name in given}
        return filled

    @field_validator("evaluation")
    @classmethod
    def _fill_in_controls(cls, evaluation: EvaluationSection, info: ValidationInfo) -> EvaluationSection:
        if info.data.get("method") is not Method.EVALUATE or "controls" in evaluation.model_fields_set:
            return evaluation
        return evaluation.model_copy(update={"controls": tuple(AudioControl)})

    @field_validator("learner")
    @classmethod
    def _fill_in_correction(cls, learner: LearnerSettings, info: ValidationInfo) -> LearnerSettings:
        """Choose the importance weights if the job file leaves them open, so that its dump shows them."""
        rollout, loss = info.data.get("rollout"), learner.loss
        if rollout is None or loss.correction.level is not None:
            return learner
        level = CorrectionLevel.TOKEN if rollout.max_staleness else CorrectionLevel.NONE
        correction = loss.correction.model_copy(update={"level": level})
        return learner.model_copy(update={"loss": loss.model_copy(update={"correction": correction})})

    @model_validator(mode="after")
    def _check_sections_fit(self) -> "JobSpec":
        if self.storage is not None:
            # Not in a field validator: its errors repeat the value, which may hold a password.
            check_url(self.storage)
        if self.rollout.max_tokens >= self.model.max_context:
            raise ValueError(
                f"rollout.max_tokens ({self.rollout.max_tokens}) leaves no room for a prompt within "
                f"model.max_context ({self.model.max_context}): lower the first or raise the second"
            )
        if self.reward.overlong_tokens > self.rollout.max_tokens:
            raise ValueError(
                f"reward.overlong_tokens ({self.reward.overlong_tokens}) is greater than rollout.max_tokens "
                f"({self.rollout.max_tokens}): lower the first or raise the second"
            )
        if self.rollout.max_staleness and self.rollout.weight_sync is Carrier.CUDA_IPC:
            raise ValueError(
                "rollout.max_staleness above 0 needs rollouts and learner to run at the same time, and with "
                "weight_sync cuda_ipc they take turns on one GPU: set it to 0, or give the rollout workers whole GPUs"
            )
        if self.rollout.weight_sync is Carrier.CUDA_IPC and self.method is not Method.EVALUATE:
            scaler = self.rollout.autoscale
            workers, key = max(
                (self.rollout.workers, "rollout.workers"), (scaler.max if scaler else 0, "rollout.autoscale.max")
            )
            if workers > self.learner.ranks:
                raise ValueError(
                    f"{key} ({workers}) is greater than learner.ranks ({self.learner.ranks}), and with weight_sync "
                    "cuda_ipc each worker shares the GPU of one rank: lower the first, raise the second, or give the "
                    "rollout workers GPUs of their own"
                )
        if self.learner.compile and not self.rollout.gpus:
            raise ValueError("learner.compile needs GPUs, and with rollout.gpus 0 the learner has none: leave it out")
        return self

    @model_validator(mode="after")
    def _check_engine(self) -> "JobSpec":
        trains = self.method is Method.REINFORCE
        correction = self.learner.loss.correction.level if trains else None
        if problem := engine_problem(self.rollout, self.model.max_context, correction):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _check_deterministic(self) -> "JobSpec":
        if not self.deterministic:
            return self
        if self.rollout.max_staleness or self.rollout.autoscale:
            raise ValueError(
                "deterministic needs rollout.max_staleness 0 and no rollout.autoscale: both depend on timing; leave "
                "one of them out"
            )
        if self.reward.judge is not None:
            raise ValueError("deterministic excludes a judge, whose replies may differ: leave one of them out")
        return self

    @model_validator(mode="after")
    def _check_method(self) -> "JobSpec":
        if self.method is Method.EVALUATE and (self.steps or self.warm_start is not None):
            raise ValueError("method evaluate trains nothing: leave out steps and warm_start")
        if self.method is Method.SUPERVISED and self.data.curriculum is not None:
            raise ValueError(
                "data.curriculum needs sampled completions, and method supervised samples none: leave it out"
            )
        if self.method is Method.SUPERVISED and self.warm_start is not None:
            raise ValueError("warm_start is supervised already: with method supervised, leave it out and raise steps")
        return self

    @model_validator(mode="after")
    def _check_unlabelled(self) -> "JobSpec":
        needing = {
            "method supervised": self.method is Method.SUPERVISED,
            "warm_start": self.warm_start is not None,
            "data.curriculum": self.data.curriculum is not None,
            "the reward function 'accuracy'": "accuracy" in self.reward.functions,
            "{answer} in reward.judge.prompt": self.reward.judge is not None and self.reward.judge.reads_answer,
        }
        found = [name for name, needs in needing.items() if needs]
        if self.data.unlabelled and found:
            raise ValueError(
                f"data.unlabelled: the answers are not read, and {found[0]} needs them: leave one of them out"
            )
        return self

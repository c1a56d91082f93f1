"""Responses of the API, shared by the service and the client."""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.schemas.job_state import JobState

Item = TypeVar("Item")

MOST_WORKERS = 4096
"""Largest number of rollout workers that a job can be scaled to."""

_TIME = "2026-05-04T12:00:00Z"
_JOB = "5f0c2a9e7b1d4c38"


class View(BaseModel):
    """A response or a part of one. Fields may be added; clients ignore unknown fields."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Page(View, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(examples=[None])
    """Cursor of the next page; null on the last page."""

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """Return the name of the schema, which generated clients give to the class: JobPage, not Page[JobView]."""
        return f"{params[0].__name__.removesuffix('View')}Page"


class EvaluationView(View):
    """Accuracy on held-out questions, from 0 to 1."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    step: int | None = Field(default=None, examples=[100])
    accuracy: float | None = Field(default=None, examples=[0.83])
    """Accuracy, with questions that failed counted as wrong; null if all failed, or the questions have no answers."""
    silence_accuracy: float | None = Field(default=None, examples=[0.27])
    """Accuracy with silence in place of the clips; null without that control."""
    shuffled_accuracy: float | None = Field(default=None, examples=[0.31])
    """Accuracy with the clips of other questions; null without that control."""
    chance_accuracy: float | None = Field(default=None, examples=[0.25])
    """Expected accuracy of guessing; null if the questions have no answers."""
    count: int | None = Field(default=None, examples=[300])
    """Number of questions."""
    failed: int | None = Field(default=None, examples=[0])
    """Number of questions that could not be asked; events of kind `failed_question` have the reasons."""


class ProgressView(View):
    """Progress of a job."""

    step: int = Field(examples=[120])
    """Learner steps completed."""
    steps: int = Field(examples=[200])
    """Learner steps in total."""
    fraction: float = Field(examples=[0.6])
    metrics: dict[str, float] = Field(examples=[{"reward/mean": 1.42, "reward/accuracy": 0.71, "workers/alive": 2}])
    """Metrics of the last step, by name."""
    evaluation: EvaluationView | None
    """The last evaluation."""
    current: bool = Field(default=True, examples=[True])
    """False while the files of the run cannot be read: progress and workers are those last known."""


class WorkerCount(View):
    """Numbers of rollout workers of a job."""

    target: int = Field(examples=[3])
    """Target number of workers."""
    alive: int = Field(examples=[2])
    """Number of workers that are serving or draining."""


class WaitingView(View):
    """Why a queued job has not started."""

    position: int = Field(examples=[1])
    """Place in the queue, from 1, over all users."""
    reason: str = Field(examples=["2 of at most 2 jobs are running"])


class JobView(View):
    """A job."""

    id: str = Field(examples=[_JOB])
    name: str = Field(examples=["demo"])
    owner: str = Field(examples=["ada"])
    state: JobState = Field(examples=["running"])
    cause: str | None = Field(examples=[None])
    """Reason for the state: an error with the last log lines, who cancelled the job, or which job preempted it."""
    priority: int = Field(examples=[0])
    """Jobs with a higher priority start first."""
    spec: dict[str, Any] = Field(examples=[{"name": "demo", "steps": 200, "rollout": {"workers": 2}}])
    """The JobSpec with all defaults filled in."""
    gpus: float = Field(examples=[0.0])
    """GPUs that the job counts for in the queue."""
    created_at: datetime = Field(examples=[_TIME])
    updated_at: datetime = Field(examples=[_TIME])
    started_at: datetime | None = Field(examples=[_TIME])
    finished_at: datetime | None = Field(examples=[None])
    attempt: int = Field(examples=[1])
    """Number of drivers started so far."""
    restarts: int = Field(examples=[0])
    """Number of drivers that died and were replaced."""
    max_restarts: int = Field(examples=[3])
    cancelling: bool = Field(examples=[False])
    """Cancellation was requested and has not completed."""
    run_dir: str = Field(examples=[f"/data/runs/{_JOB}"])
    """Path of the run directory on the service's machine."""
    progress: ProgressView
    workers: WorkerCount
    waiting: WaitingView | None = Field(default=None, examples=[None])
    """Place in the queue and the reason to wait; null if the job does not wait there."""


class TransitionView(View):
    """A change of a job's state."""

    from_state: JobState | None = Field(examples=["queued"])
    """Previous state; null for the submission."""
    to_state: JobState = Field(examples=["starting"])
    at: datetime = Field(examples=[_TIME])
    cause: str | None = Field(examples=[None])


class JobDetail(JobView):
    """A job and its history."""

    history: list[TransitionView]


class CommandView(View):
    """A command to a job. It has been carried out once an event of kind `command` has its id; an event
    `command_failed` with its id says why it was not."""

    id: str = Field(examples=["9b1f6c0f1f1e4c4d8a0b6f1f5f0d7c11"])
    command: str = Field(examples=["scale"])
    count: int | None = Field(examples=[3])
    job: JobView


class WorkerView(View):
    """A rollout worker."""

    name: str = Field(examples=["rollout-0"])
    state: str = Field(examples=["serving"])
    """starting, pending (no free resources on the cluster), serving, draining, stopping, lost, restarting."""
    since: datetime | None = Field(examples=[_TIME])
    node: str | None = Field(examples=["10.0.0.5"])
    pid: int | None = Field(examples=[4711])
    restarts: int = Field(examples=[0])
    cause: str | None = Field(examples=[None])
    """Reason for the loss of the worker."""


class MetricsView(View):
    """Metrics by learner step."""

    items: list[dict[str, float | None]] = Field(
        examples=[[{"step": 1, "reward/mean": 0.61}, {"step": 2, "reward/mean": 0.72}]]
    )
    """One object per step or bucket of steps: `step`, the last of its bucket, and the mean of each metric."""
    minima: list[dict[str, float | None]] | None = Field(examples=[None])
    """Minima of each bucket, in the order of `items`; null if every bucket is one step."""
    maxima: list[dict[str, float | None]] | None = Field(examples=[None])
    """Maxima of each bucket; null if every bucket is one step."""
    names: list[str] = Field(examples=[["reward/mean", "reward/accuracy"]])
    """All metrics of the job, including those not requested."""
    last_step: int | None = Field(examples=[2])
    """Pass as `since_step` to get only later steps."""
    next_cursor: None = None
    """Always null: the response is complete."""


class SampleView(View):
    """A scored completion."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    id: str = Field(examples=["12-97-0-5d41402a"])
    """Step, draw and number of the completion, and a check of its text: it never leads to another completion."""
    audio_url: str = Field(examples=[f"/v1/jobs/{_JOB}/samples/12-97-0-5d41402a/audio"])
    """URL of the clip."""
    step: int = Field(examples=[12])
    question_key: str = Field(examples=["train#17"])
    question: str = Field(examples=["What is heard?"])
    choices: list[str] = Field(examples=[["a dog", "a cat"]])
    answer: str = Field(examples=["a dog"])
    audio: str = Field(examples=["/data/clips/17.wav"])
    text: str = Field(examples=["<answer>a dog</answer>"])
    """Text of the completion."""
    rewards: dict[str, float | None] = Field(examples=[{"accuracy": 1.0, "format": 1.0}])
    reward: float | None = Field(examples=[2.0])
    advantage: float | None = Field(examples=[0.7])
    valid: bool = Field(examples=[True])
    error: str | None = Field(examples=[None])
    weight_version: int = Field(examples=[11])
    learner_version: int = Field(examples=[12])
    worker: str = Field(examples=["rollout-0"])


class EventView(View):
    """An event of a job."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    cursor: str = Field(examples=["512"])
    """Send as `Last-Event-ID` to start a stream after this event. (`id`, if present, is the id of a command.)"""
    time: str | None = Field(default=None, examples=[_TIME])
    kind: str | None = Field(default=None, examples=["scaled"])


class LogLine(View):
    """A line of a job's log."""

    cursor: str = Field(examples=["90210"])
    """Send as `Last-Event-ID` to start a stream after this line."""
    text: str = Field(examples=["step 12/200  reward 1.420"])


class CheckpointView(View):
    """A complete checkpoint."""

    step: int = Field(examples=[100])
    path: str = Field(examples=[f"/data/runs/{_JOB}/checkpoints/step-100"])
    """Path on the service's machine: a Hugging Face checkpoint that transformers and vLLM can load."""
    created_at: datetime = Field(examples=[_TIME])
    bytes: int = Field(examples=[1048576])
    accuracy: float | None = Field(examples=[0.83])
    """Accuracy on held-out questions, if that step was evaluated."""


class UseView(View):
    """Resources of a node that a job uses."""

    job: str = Field(examples=[_JOB])
    """Job id; `other` for jobs that you may not see."""
    cpus: float = Field(examples=[2.0])
    gpus: float = Field(examples=[1.0])


class NodeView(View):
    """A machine of the cluster."""

    id: str = Field(examples=["c0ffee"])
    address: str = Field(examples=["10.0.0.5"])
    alive: bool = Field(examples=[True])
    cpus: float = Field(examples=[16.0])
    gpus: float = Field(examples=[1.0])
    gpu_type: str | None = Field(examples=["H100"])
    memory_bytes: int = Field(examples=[137438953472])
    uses: list[UseView]


class ClusterView(View):
    """The cluster and the queue."""

    nodes: list[NodeView]
    cpus: float = Field(examples=[16.0])
    gpus: float = Field(examples=[1.0])
    gpus_used: float = Field(examples=[1.0])
    jobs: dict[JobState, int] = Field(examples=[{"queued": 5, "running": 3}])
    """Number of jobs in each state, over all users."""


class HealthView(View):
    """Health of the service."""

    status: str = Field(examples=["ok"])


class WorkerPage(Page[WorkerView]):
    """All rollout workers of a job, on one page."""

    target: int = Field(examples=[3])
    """Target number of workers."""


class ScaleBody(View):
    """Target number of rollout workers."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra={"examples": [{"count": 3}]}
    )

    count: int = Field(ge=0, le=MOST_WORKERS, strict=True)
    """Number of workers; with 0 the job waits."""

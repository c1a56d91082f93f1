"""What the API answers with, as other programs see it. The client reads the same models."""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.schemas.job_state import JobState

Item = TypeVar("Item")

_TIME = "2026-05-04T12:00:00Z"
_JOB = "5f0c2a9e7b1d4c38"


class View(BaseModel):
    """A part of an answer. Fields may be added: a client reads over those it does not know."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Page(View, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    next_cursor: str | None = Field(examples=[None])
    """Asks for the next part; null at the end."""


class EvaluationView(View):
    """Accuracy on held-out questions, from 0 to 1."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    step: int | None = Field(default=None, examples=[100])
    accuracy: float | None = Field(default=None, examples=[0.83])
    silence_accuracy: float | None = Field(default=None, examples=[0.27])
    """With silence in place of the clips; null without that control."""
    shuffled_accuracy: float | None = Field(default=None, examples=[0.31])
    """With another question's clip in place of each; null without that control."""
    chance_accuracy: float | None = Field(default=None, examples=[0.25])


class ProgressView(View):
    """How far a job is."""

    step: int = Field(examples=[120])
    """Learner steps done."""
    steps: int = Field(examples=[200])
    """Learner steps in all."""
    fraction: float = Field(examples=[0.6])
    metrics: dict[str, float] = Field(examples=[{"reward/mean": 1.42, "reward/accuracy": 0.71, "workers/alive": 2}])
    """Of the last step, by name."""
    evaluation: EvaluationView | None
    """The last one."""


class WorkerCount(View):
    """A job's rollout workers."""

    target: int = Field(examples=[3])
    """How many there should be."""
    alive: int = Field(examples=[2])
    """How many serve or drain."""


class JobView(View):
    """A job."""

    id: str = Field(examples=[_JOB])
    name: str = Field(examples=["demo"])
    owner: str = Field(examples=["ada"])
    state: JobState = Field(examples=["running"])
    cause: str | None = Field(examples=[None])
    """Why it is in its state: an error with its last log lines, who cancelled it, what preempted it."""
    priority: int = Field(examples=[0])
    """Higher goes first."""
    spec: dict[str, Any] = Field(examples=[{"name": "demo", "steps": 200, "rollout": {"workers": 2}}])
    """The JobSpec, every default written out."""
    gpus: float = Field(examples=[0.0])
    """That it counts for in the queue."""
    created_at: datetime = Field(examples=[_TIME])
    updated_at: datetime = Field(examples=[_TIME])
    started_at: datetime | None = Field(examples=[_TIME])
    finished_at: datetime | None = Field(examples=[None])
    attempt: int = Field(examples=[1])
    """Drivers begun so far."""
    restarts: int = Field(examples=[0])
    """Drivers that died and were replaced."""
    max_restarts: int = Field(examples=[3])
    cancelling: bool = Field(examples=[False])
    """It was told to end, and has not yet."""
    run_dir: str = Field(examples=[f"/data/runs/{_JOB}"])
    """On the service's machine."""
    progress: ProgressView
    workers: WorkerCount


class TransitionView(View):
    """A change of a job's state."""

    from_state: JobState | None = Field(examples=["queued"])
    """null for its submission."""
    to_state: JobState = Field(examples=["starting"])
    at: datetime = Field(examples=[_TIME])
    cause: str | None = Field(examples=[None])


class JobDetail(JobView):
    """A job and its history."""

    history: list[TransitionView]


class CommandView(View):
    """What a job was told. It is carried out when an event of kind `command` has its id."""

    id: str = Field(examples=["9b1f6c0f1f1e4c4d8a0b6f1f5f0d7c11"])
    command: str = Field(examples=["scale"])
    count: int | None = Field(examples=[3])
    job: JobView


class WorkerView(View):
    """A rollout worker."""

    name: str = Field(examples=["rollout-0"])
    state: str = Field(examples=["serving"])
    """starting, pending (no room on the cluster yet), serving, draining, stopping, lost, restarting."""
    since: datetime | None = Field(examples=[_TIME])
    node: str | None = Field(examples=["10.0.0.5"])
    pid: int | None = Field(examples=[4711])
    restarts: int = Field(examples=[0])
    cause: str | None = Field(examples=[None])
    """Why it was lost."""


class MetricsView(View):
    """Metrics over learner steps."""

    items: list[dict[str, float | None]] = Field(
        examples=[[{"step": 1, "reward/mean": 0.61}, {"step": 2, "reward/mean": 0.72}]]
    )
    """One object a step, or a bucket of steps: `step`, the last of its bucket, and the mean of each metric."""
    minima: list[dict[str, float | None]] | None = Field(examples=[None])
    """The least in each bucket, beside `items`; null where every bucket is one step."""
    maxima: list[dict[str, float | None]] | None = Field(examples=[None])
    """The greatest, likewise."""
    names: list[str] = Field(examples=[["reward/mean", "reward/accuracy"]])
    """All metrics the job has, also those not asked for."""
    last_step: int | None = Field(examples=[2])
    """Asked for as `since_step`, only what came behind is given."""
    next_cursor: None = None
    """Everything asked for is in this answer."""


class SampleView(View):
    """A scored completion."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    id: str = Field(examples=["18342"])
    audio_url: str = Field(examples=[f"/v1/jobs/{_JOB}/samples/18342/audio"])
    """The clip."""
    step: int = Field(examples=[12])
    question_key: str = Field(examples=["train#17"])
    question: str = Field(examples=["What is heard?"])
    choices: list[str] = Field(examples=[["a dog", "a cat"]])
    answer: str = Field(examples=["a dog"])
    audio: str = Field(examples=["/data/clips/17.wav"])
    text: str = Field(examples=["<answer>a dog</answer>"])
    """What the model said."""
    rewards: dict[str, float | None] = Field(examples=[{"accuracy": 1.0, "format": 1.0}])
    reward: float | None = Field(examples=[2.0])
    advantage: float | None = Field(examples=[0.7])
    valid: bool = Field(examples=[True])
    error: str | None = Field(examples=[None])
    weight_version: int = Field(examples=[11])
    learner_version: int = Field(examples=[12])
    worker: str = Field(examples=["rollout-0"])


class EventView(View):
    """What happened in a job."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    cursor: str = Field(examples=["512"])
    """Sent as `Last-Event-ID`, a stream begins behind this event. (`id` is that of a command, where it is one.)"""
    time: str | None = Field(default=None, examples=[_TIME])
    kind: str | None = Field(default=None, examples=["scaled"])


class LogLine(View):
    """A line of a job's log."""

    cursor: str = Field(examples=["90210"])
    """Sent as `Last-Event-ID`, a stream begins behind this line."""
    text: str = Field(examples=["step 12/200  reward 1.420"])


class CheckpointView(View):
    """A whole checkpoint."""

    step: int = Field(examples=[100])
    path: str = Field(examples=[f"/data/runs/{_JOB}/checkpoints/step-100"])
    """On the service's machine: a Hugging Face checkpoint that transformers and vLLM load."""
    created_at: datetime = Field(examples=[_TIME])
    bytes: int = Field(examples=[1048576])
    accuracy: float | None = Field(examples=[0.83])
    """On held-out questions, where that step was evaluated."""


class UseView(View):
    """What a job has of a node."""

    job: str = Field(examples=[_JOB])
    """`other` for jobs that are not yours to see."""
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
    """How many there are in each state, of all users."""


class HealthView(View):
    """That the service is there."""

    status: str = Field(examples=["ok"])


class WorkerPage(Page[WorkerView]):
    """A job's rollout workers; all of them."""

    target: int = Field(examples=[3])
    """How many there should be."""


class ScaleBody(View):
    """How many rollout workers there should be."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra={"examples": [{"count": 3}]}
    )

    count: int = Field(ge=0, le=4096, strict=True)
    """0 has none: the job waits."""

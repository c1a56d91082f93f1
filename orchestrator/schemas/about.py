"""Responses of the API about the service, its users and what a job would need; bodies of changes to a job."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from orchestrator.schemas.api import View
from orchestrator.schemas.job_state import JobState
from orchestrator.schemas.problem_code import ProblemCode

HIGHEST_PRIORITY = 100
"""Priorities are from minus this to this."""

_TIME = "2026-05-04T12:00:00Z"


class ProblemKindView(View):
    """Kind of the problems with one code."""

    type: str = Field(examples=["/problems/job_not_found"])
    code: ProblemCode = Field(examples=["job_not_found"])
    status: int = Field(examples=[404])
    """HTTP status."""
    title: str = Field(examples=["There is no such job"])
    meaning: str = Field(examples=["No job has this id, or it belongs to another user."])
    """Meaning, and how to mend it."""


class VersionView(View):
    """Versions of the service."""

    earshot: str = Field(examples=["0.2.0"])
    api: str = Field(examples=["1"])
    """Version of the API, as in the paths of the routes."""
    ray: str = Field(examples=["2.49.0"])
    """Ray of the service; drivers run on the same version."""


class TokenView(View):
    """A token, without its secret."""

    id: str = Field(examples=["9a4be0c1d2e3f405"])
    name: str = Field(examples=["laptop"])
    expires_at: datetime | None = Field(examples=[_TIME])
    """Null: it does not expire."""


class MeView(View):
    """The user who sent the request."""

    owner: str = Field(examples=["ada"])
    """Owner of the jobs that this user submits."""
    role: str = Field(examples=["submitter"])
    local: bool = Field(examples=[False])
    """The request was accepted without a token, as one of the user who started the service."""
    token: TokenView | None
    """Null without a token."""
    jobs: dict[JobState, int] = Field(examples=[{"queued": 1, "running": 2}])
    """Number of the user's own jobs in each state."""


class BoundsView(View):
    """Upper bounds on jobs, for all users together or for each one; null for no bound."""

    running: int | None = Field(examples=[2])
    """Jobs that run at the same time."""
    queued: int | None = Field(examples=[1000])
    """Jobs that wait in the queue."""
    gpus: float | None = Field(examples=[8.0])
    """GPUs of all running jobs."""


class RequestLimitsView(View):
    """Limits on requests."""

    body_bytes: int = Field(examples=[1048576])
    yaml_bytes: int = Field(examples=[65536])
    """Size of a body in YAML."""
    depth: int = Field(examples=[32])
    """Nesting of a body."""
    per_second: float = Field(examples=[1000.0])
    """Sustained rate of one user."""
    burst: int = Field(examples=[2000])
    """Requests that a user may send at once after a pause."""
    streams: int = Field(examples=[2000])
    """Open streams of events and logs, over all users."""
    stream_seconds: float = Field(examples=[3600.0])
    """Longest duration of a stream; it is resumed with `Last-Event-ID`."""
    key_days: int = Field(examples=[7])
    """Days for which an `Idempotency-Key` is remembered; that of a submission for as long as its job exists."""
    keys: int = Field(examples=[10000])
    """Number of keys that are remembered for each user, the latest ones."""


class LimitsView(View):
    """Limits of the service."""

    jobs: BoundsView
    """For all users together; the GPUs of the cluster are a bound, too."""
    jobs_per_user: BoundsView
    requests: RequestLimitsView
    preemption: bool = Field(examples=[False])
    """Waiting jobs may preempt running ones of lower priority."""
    roots: list[str] = Field(examples=[["/data"]])
    """Folders that may contain the models, questions and clips of the user's jobs."""
    cache_roots: list[str] = Field(examples=[["/scratch"]])
    """Folders that may hold caches which jobs write to."""
    reward_modules: list[str] = Field(examples=[["my_rewards"]])
    """Modules whose functions jobs may use as rewards."""
    judge_hosts: list[str] = Field(examples=[["judge.example:8000"]])
    """Hosts that jobs may use as judges."""
    judge_keys: list[str] = Field(examples=[["JUDGE_API_KEY"]])
    """Environment variables whose values jobs may send to judges."""
    storage: bool = Field(examples=[False])
    """Runs are copied to a storage that the service chooses."""
    keep_days: float | None = Field(examples=[None])
    """Days after which an ended job is removed with its files; null: never."""


class AuditView(View):
    """An entry of the audit log: an action that was done or refused."""

    at: datetime = Field(examples=[_TIME])
    actor: str = Field(examples=["ada"])
    """User who asked for it."""
    action: str = Field(examples=["job.cancel"])
    target: str = Field(examples=["5f0c2a9e7b1d4c38"])
    """Id of a job or token; empty without one."""
    outcome: str = Field(examples=["ok"])
    """`ok`, or the reason for the refusal."""
    detail: dict[str, Any] = Field(examples=[{}])


class ValidationView(View):
    """A job that would be accepted."""

    spec: dict[str, Any] = Field(examples=[{"name": "demo", "steps": 200, "rollout": {"workers": 2}}])
    """The JobSpec as it would be queued: with all defaults filled in, and its paths resolved."""
    gpus: float = Field(examples=[2.0])
    """GPUs of all ranks and of the most workers that it scales itself to."""
    cpus: float = Field(examples=[4.0])
    """CPUs that it reserves: one for each worker, each rank and the reward actor."""


class PriorityBody(View):
    """Change of a job."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra={"examples": [{"priority": 10}]}
    )

    priority: int = Field(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY, strict=True)
    """Jobs with a higher priority start first."""

"""Requests to the service as data, sent by the synchronous and the asynchronous client alike."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from audio_qa.errors import one_line, shown
from orchestrator.client.errors import RefusedError, UnsendableError
from orchestrator.job.spec import JobSpec
from orchestrator.schemas.about import AuditView, LimitsView, MeView, ValidationView, VersionView
from orchestrator.schemas.api import (
    CheckpointView,
    ClusterView,
    CommandView,
    EventView,
    HealthView,
    JobDetail,
    JobView,
    LogLine,
    MetricsView,
    Page,
    SampleView,
    View,
    WorkerPage,
)
from orchestrator.schemas.job_state import JobState
from orchestrator.schemas.problem_code import ProblemCode

Result = TypeVar("Result", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ApiRequest(Generic[Result]):
    """A request, and the model of its response."""

    method: str
    path: str
    result: type[Result]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Idempotency key: the service carries out the first of several requests with one key, and answers all."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the request: sending it again has no second effect, whatever its method."""
        return {"Accept": "application/json"} | ({} if self.method == "GET" else {"Idempotency-Key": self.key})


def submit(
    spec: JobSpec | Mapping[str, Any], priority: int, max_restarts: int | None, key: str | None
) -> ApiRequest[JobView]:
    """Return the request to submit a job. Raises UnsendableError for a job that JSON cannot express."""
    params = _without_none(priority=priority or None, max_restarts=max_restarts)
    return ApiRequest("POST", "/v1/jobs", JobView, params, _body_of(spec), key or uuid.uuid4().hex)


def validate(spec: JobSpec | Mapping[str, Any]) -> ApiRequest[ValidationView]:
    """Return the request to check a job. Raises UnsendableError for a job that JSON cannot express."""
    return ApiRequest("POST", "/v1/jobs:validate", ValidationView, body=_body_of(spec))


def _body_of(spec: JobSpec | Mapping[str, Any]) -> dict[str, Any]:
    body = spec.model_dump(mode="json") if isinstance(spec, JobSpec) else dict(spec)
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise UnsendableError(
            f"the job cannot be sent as JSON ({one_line(str(error), 200)}); use finite numbers, texts, lists and "
            "mappings"
        ) from error
    return body


def jobs(
    state: Sequence[JobState | str], name: str | None, owner: str | None, cursor: str | None, limit: int
) -> ApiRequest[Page[JobView]]:
    states = [str(one) for one in state] or None
    params = _without_none(state=states, name=name, owner=owner, cursor=cursor, limit=limit)
    return ApiRequest("GET", "/v1/jobs", Page[JobView], params)


def job(job_id: str) -> ApiRequest[JobDetail]:
    return ApiRequest("GET", _job_path(job_id), JobDetail)


def cancel(job_id: str) -> ApiRequest[JobView]:
    return ApiRequest("POST", _job_path(job_id, "cancel"), JobView)


def command(job_id: str, name: Literal["pause", "resume", "checkpoint"]) -> ApiRequest[CommandView]:
    return ApiRequest("POST", _job_path(job_id, name), CommandView)


def retry(job_id: str) -> ApiRequest[JobView]:
    return ApiRequest("POST", _job_path(job_id, "retry"), JobView)


def delete(job_id: str) -> ApiRequest[View]:
    return ApiRequest("DELETE", _job_path(job_id), View)


def set_priority(job_id: str, priority: int) -> ApiRequest[JobView]:
    return ApiRequest("PATCH", _job_path(job_id), JobView, body={"priority": priority})


def scale(job_id: str, count: int) -> ApiRequest[CommandView]:
    return ApiRequest("PATCH", _job_path(job_id, "rollout-workers"), CommandView, body={"count": count})


def workers(job_id: str) -> ApiRequest[WorkerPage]:
    return ApiRequest("GET", _job_path(job_id, "workers"), WorkerPage)


def metrics(job_id: str, since_step: int | None, names: Sequence[str] | None, points: int) -> ApiRequest[MetricsView]:
    params = _without_none(since_step=since_step, names=None if names is None else ",".join(names), points=points)
    return ApiRequest("GET", _job_path(job_id, "metrics"), MetricsView, params)


def samples(
    job_id: str, step: int | None, order: Literal["newest", "oldest"], cursor: str | None, limit: int
) -> ApiRequest[Page[SampleView]]:
    params = _without_none(step=step, order=order, cursor=cursor, limit=limit)
    return ApiRequest("GET", _job_path(job_id, "samples"), Page[SampleView], params)


def checkpoints(job_id: str) -> ApiRequest[Page[CheckpointView]]:
    return ApiRequest("GET", _job_path(job_id, "checkpoints"), Page[CheckpointView])


def events(job_id: str, cursor: str | None, tail: int | None, limit: int) -> ApiRequest[Page[EventView]]:
    return ApiRequest(
        "GET", _job_path(job_id, "events"), Page[EventView], _without_none(cursor=cursor, tail=tail, limit=limit)
    )


def logs(job_id: str, cursor: str | None, tail: int | None, limit: int) -> ApiRequest[Page[LogLine]]:
    return ApiRequest(
        "GET", _job_path(job_id, "logs"), Page[LogLine], _without_none(cursor=cursor, tail=tail, limit=limit)
    )


def cluster() -> ApiRequest[ClusterView]:
    return ApiRequest("GET", "/v1/cluster", ClusterView)


def version() -> ApiRequest[VersionView]:
    return ApiRequest("GET", "/v1/version", VersionView)


def me() -> ApiRequest[MeView]:
    return ApiRequest("GET", "/v1/me", MeView)


def limits() -> ApiRequest[LimitsView]:
    return ApiRequest("GET", "/v1/limits", LimitsView)


def audit(
    actor: str | None, action: str | None, target: str | None, since: datetime | None, cursor: str | None, limit: int
) -> ApiRequest[Page[AuditView]]:
    at = None if since is None else since.astimezone().isoformat()
    params = _without_none(actor=actor, action=action, target=target, since=at, cursor=cursor, limit=limit)
    return ApiRequest("GET", "/v1/audit", Page[AuditView], params)


def health() -> ApiRequest[HealthView]:
    return ApiRequest("GET", "/healthz", HealthView)


def audio_path(job_id: str, sample_id: str) -> str:
    """Return the path of the audio file of a sample's clip."""
    return _job_path(job_id, f"samples/{quote(sample_id, safe='')}/audio")


def stream_path(job_id: str, source: Literal["events", "logs"]) -> str:
    """Return the path of a stream."""
    return _job_path(job_id, source)


def _job_path(job_id: str, part: str = "") -> str:
    """Return the path of a job, in which any text given as an id stays one segment. Raises RefusedError."""
    if not job_id or "/" in job_id:
        # No path can name it: a slash ends a segment, also in the form %2F.
        detail = f"{shown(job_id)} is not the id of a job; `earshot jobs` lists them"
        raise RefusedError(HTTPStatus.NOT_FOUND, detail, code=ProblemCode.JOB_NOT_FOUND)
    path = f"/v1/jobs/{quote(job_id, safe='')}"
    return f"{path}/{part}" if part else path


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

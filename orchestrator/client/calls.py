"""Requests to the service as data, sent by the synchronous and the asynchronous client alike."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from audio_qa.errors import one_line
from orchestrator.client.errors import UnsendableError
from orchestrator.job.spec import JobSpec
from orchestrator.schemas.api import (
    CheckpointView,
    ClusterView,
    CommandView,
    EventView,
    JobDetail,
    JobView,
    LogLine,
    MetricsView,
    Page,
    SampleView,
    WorkerPage,
)
from orchestrator.schemas.job_state import JobState

Result = TypeVar("Result", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ApiRequest(Generic[Result]):
    """A request, and the model of its response."""

    method: str
    path: str
    result: type[Result]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=lambda: {"Accept": "application/json"})
    repeatable: bool = True
    """Sending it twice has the same effect as sending it once."""


def submit(
    spec: JobSpec | Mapping[str, Any], priority: int, max_restarts: int | None, key: str | None
) -> ApiRequest[JobView]:
    """Return the request to submit a job. Its idempotency key, new by default, makes it repeatable.

    Raises UnsendableError for a job that JSON cannot express.
    """
    body = spec.model_dump(mode="json") if isinstance(spec, JobSpec) else dict(spec)
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise UnsendableError(
            f"the job cannot be sent as JSON ({one_line(str(error), 200)}); use finite numbers, texts, lists and "
            "mappings"
        ) from error
    params = _without_none(priority=priority or None, max_restarts=max_restarts)
    headers = {"Accept": "application/json", "Idempotency-Key": key or uuid.uuid4().hex}
    return ApiRequest("POST", "/v1/jobs", JobView, params, body, headers)


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
    return ApiRequest("POST", _job_path(job_id, name), CommandView, repeatable=False)


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


def audio_path(job_id: str, sample_id: str) -> str:
    """Return the path of the audio file of a sample's clip."""
    return _job_path(job_id, f"samples/{quote(sample_id, safe='')}/audio")


def stream_path(job_id: str, source: Literal["events", "logs"]) -> str:
    """Return the path of a stream."""
    return _job_path(job_id, source)


def _job_path(job_id: str, part: str = "") -> str:
    # Any text given as an id stays one segment of the path.
    path = f"/v1/jobs/{quote(job_id, safe='') or '-'}"
    return f"{path}/{part}" if part else path


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

"""A typed client of the service: `EarshotClient`, and `AsyncEarshotClient` with the same methods for asyncio.

    with EarshotClient() as client:
        job = client.submit(spec)
        client.scale(job.id, 3)
        for event in client.stream_events(job.id):
            print(event.kind)
        job = client.wait(job.id)

Without arguments the client connects to EARSHOT_URL with the token EARSHOT_TOKEN, by default to a service on this
machine. Requests are retried while the service cannot be reached; none has a second effect.
"""

from orchestrator.client.asynchronous import AsyncEarshotClient
from orchestrator.client.errors import (
    AddressError,
    AnswerError,
    ApiError,
    ClientError,
    RefusedError,
    UnreachableError,
    UnsendableError,
    WaitTimeoutError,
)
from orchestrator.client.synchronous import EarshotClient
from orchestrator.schemas.about import AuditView, LimitsView, MeView, ValidationView, VersionView
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

__all__ = [
    "AddressError",
    "AnswerError",
    "ApiError",
    "AsyncEarshotClient",
    "AuditView",
    "CheckpointView",
    "ClientError",
    "ClusterView",
    "CommandView",
    "EarshotClient",
    "EventView",
    "JobDetail",
    "JobState",
    "JobView",
    "LimitsView",
    "LogLine",
    "MeView",
    "MetricsView",
    "Page",
    "RefusedError",
    "SampleView",
    "UnreachableError",
    "UnsendableError",
    "ValidationView",
    "VersionView",
    "WaitTimeoutError",
    "WorkerPage",
]

"""A typed client of the service: `EarshotClient`, and `AsyncEarshotClient` with the same methods for asyncio.

    with EarshotClient() as client:
        job = client.submit(spec)
        client.scale(job.id, 3)
        for event in client.stream_events(job.id):
            print(event.kind)
        job = client.wait(job.id)

Without arguments it asks EARSHOT_URL with EARSHOT_TOKEN, by default a service on this machine. What can be repeated
without harm is repeated while the service cannot be reached.
"""

from orchestrator.client.asynchronous import AsyncEarshotClient
from orchestrator.client.errors import ApiError, ClientError, UnreachableError, WaitTimeoutError
from orchestrator.client.synchronous import EarshotClient
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
    "ApiError",
    "AsyncEarshotClient",
    "CheckpointView",
    "ClientError",
    "ClusterView",
    "CommandView",
    "EarshotClient",
    "EventView",
    "JobDetail",
    "JobState",
    "JobView",
    "LogLine",
    "MetricsView",
    "Page",
    "SampleView",
    "UnreachableError",
    "WaitTimeoutError",
    "WorkerPage",
]

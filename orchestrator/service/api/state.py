"""The objects that the routes share: one context per app."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from orchestrator.cluster.inventory import Cluster
from orchestrator.job.roots import Roots
from orchestrator.job.spec import JobSpec
from orchestrator.service.admission.admission import Admission
from orchestrator.service.api.connection.peer import PeerOf
from orchestrator.service.api.guesses import Guesses
from orchestrator.service.api.job_cache import JobCache
from orchestrator.service.api.meters import Meters
from orchestrator.service.api.rate import RateLimiter
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.store.store import Store
from orchestrator.service.supervision.waiting import Situation, WaitingJobs
from orchestrator.service.telemetry.columns import Metrics
from orchestrator.service.telemetry.file_threads import FileThreads
from orchestrator.service.telemetry.histories import RunHistories
from orchestrator.service.telemetry.runs_now import RunsNow
from orchestrator.service.telemetry.tail import Tails

FitsCheck = Callable[[JobSpec, str], Awaitable[None]]
"""Takes a job and its owner; raises NeverFitsError, with the reason, if the job can never run here."""

ReadinessCheck = Callable[[], Awaitable[str | None]]
"""Returns why the service cannot currently run jobs, or None if it can."""


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The shared objects of one app, for use on one event loop."""

    store: Store
    jobs: JobCache
    settings: ApiSettings
    cluster: Cluster | None
    check_fits: FitsCheck
    unready_reason: ReadinessCheck
    roots_of: Callable[[str], Roots]
    """Returns the files that the jobs of an owner may read."""
    admission: Admission
    files: FileThreads
    """Reads every file that a route reads: one that hangs must not block the event loop."""
    metrics: Metrics
    histories: RunHistories
    runs: RunsNow
    situation: Callable[[], Situation]
    """Returns what jobs are scheduled by."""
    waiting: WaitingJobs
    tails: Tails
    rate: RateLimiter
    guesses: Guesses
    peer_of: PeerOf
    """Returns who sent a request."""
    meters: Meters


def api_context(request: Request) -> ApiContext:
    """Return the context of the app that handles the request."""
    context: ApiContext = request.app.state.context
    return context

"""The objects that the routes share: one context per app."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from orchestrator.cluster.inventory import Cluster
from orchestrator.job.spec import JobSpec
from orchestrator.service.admission.admission import Admission
from orchestrator.service.admission.roots import Roots
from orchestrator.service.api.job_cache import JobCache
from orchestrator.service.api.meters import Meters
from orchestrator.service.api.rate import RateLimiter
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.store.store import Store
from orchestrator.service.telemetry.columns import Metrics
from orchestrator.service.telemetry.histories import RunHistories
from orchestrator.service.telemetry.progress import JobProgress
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
    roots: Roots
    admission: Admission
    metrics: Metrics
    histories: RunHistories
    progress: JobProgress
    tails: Tails
    rate: RateLimiter
    refusals: RateLimiter
    meters: Meters


def api_context(request: Request) -> ApiContext:
    """Return the context of the app that handles the request."""
    context: ApiContext = request.app.state.context
    return context

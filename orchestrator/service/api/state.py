"""What the routes work with: one object for each app."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from orchestrator.cluster.inventory import Cluster
from orchestrator.job.spec import JobSpec
from orchestrator.service.admission.admission import Admission
from orchestrator.service.admission.roots import Roots
from orchestrator.service.api.job_cache import JobCache
from orchestrator.service.api.meters import Meters
from orchestrator.service.api.rate import Rate
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.store.store import Store
from orchestrator.service.telemetry.columns import Metrics
from orchestrator.service.telemetry.facts import Facts
from orchestrator.service.telemetry.progress import JobProgress
from orchestrator.service.telemetry.tail import Tails

Fits = Callable[[JobSpec, str], Awaitable[None]]
"""Called with a job and its owner; raises NeverFitsError, with the reason, for one that can never run here."""

Ready = Callable[[], Awaitable[str | None]]
"""Why the service cannot run jobs now; None where it can."""


@dataclass(frozen=True, slots=True)
class Api:
    """For use on one event loop."""

    store: Store
    jobs: JobCache
    settings: ApiSettings
    cluster: Cluster | None
    fits: Fits
    ready: Ready
    roots: Roots
    admission: Admission
    metrics: Metrics
    facts: Facts
    progress: JobProgress
    tails: Tails
    rate: Rate
    refusals: Rate
    meters: Meters


def api_of(request: Request) -> Api:
    """Of the app that answers the request."""
    api: Api = request.app.state.api
    return api

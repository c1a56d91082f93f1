"""The API of the service as one ASGI app."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.cluster.inventory import Cluster
from orchestrator.job.roots import Roots
from orchestrator.job.spec import JobSpec
from orchestrator.schemas.about import PriorityBody
from orchestrator.schemas.api import ScaleBody
from orchestrator.service.admission.admission import Admission
from orchestrator.service.api.connection.peer import PeerOf, peer_of_request
from orchestrator.service.api.gate import RequestGate
from orchestrator.service.api.guesses import Guesses
from orchestrator.service.api.job_cache import JobCache
from orchestrator.service.api.meters import Meters
from orchestrator.service.api.problems import ProblemDocument, install_error_handlers
from orchestrator.service.api.rate import RateLimiter
from orchestrator.service.api.replies.methods import MethodsOfRoutes
from orchestrator.service.api.replies.operations import add_etags, name_bounds, operation_id, with_plain_names
from orchestrator.service.api.replies.parameters import check_parameters
from orchestrator.service.api.routes import about as about_routes
from orchestrator.service.api.routes import changes as change_routes
from orchestrator.service.api.routes import commands as command_routes
from orchestrator.service.api.routes import jobs as job_routes
from orchestrator.service.api.routes import reference as reference_routes
from orchestrator.service.api.routes import service as service_routes
from orchestrator.service.api.routes import streams as stream_routes
from orchestrator.service.api.routes import telemetry as telemetry_routes
from orchestrator.service.api.routes.about import API_VERSION
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.api.state import ApiContext, FitsCheck, ReadinessCheck
from orchestrator.service.observability.tracing import Tracing
from orchestrator.service.store.store import Store
from orchestrator.service.supervision.waiting import Situation, WaitingJobs
from orchestrator.service.telemetry.columns import Metrics
from orchestrator.service.telemetry.file_threads import FileThreads
from orchestrator.service.telemetry.histories import RunHistories
from orchestrator.service.telemetry.progress import JobProgress
from orchestrator.service.telemetry.runs_now import RunsNow
from orchestrator.service.telemetry.tail import Tails

_DESCRIPTION = """
Submit jobs that post-train audio language models, follow them, and scale their rollout workers while they run.

Errors are problem documents (RFC 9457); `detail` explains the problem in one line. Lists are `{items, next_cursor}`:
pass `next_cursor` as `cursor` to get the next page. Requests with an `Idempotency-Key` are safe to repeat.
"""


async def _fits(spec: JobSpec, owner: str) -> None:
    """Accept every job: the default without a cluster."""


async def _ready() -> str | None:
    """Return None, always ready: the default without a cluster."""
    return None


def create_app(
    store: Store,
    settings: ApiSettings | None = None,
    *,
    cluster: Cluster | None = None,
    check_fits: FitsCheck = _fits,
    unready_reason: ReadinessCheck = _ready,
    lifespan: AbstractAsyncContextManager[Any] | None = None,
    tracing: Tracing | None = None,
    peer_of: PeerOf = peer_of_request,
    situation: Callable[[], Situation] | None = None,
) -> FastAPI:
    """Create the app.

    Args:
        store: must be open while requests are served; `lifespan` or the caller opens and closes it.
        lifespan: entered when the server starts, left when it stops.
        peer_of: returns who sent a request; the default reads what the service's own protocol found out.
        situation: returns what jobs are scheduled by; the default is for an app without a supervisor.
    """
    settings = settings or ApiSettings()
    alone = Situation(settings.limits, math.inf, settings.preemption, "this service has no cluster")
    files, histories = FileThreads(settings.file_seconds), RunHistories()
    tails = Tails(
        heartbeat_seconds=settings.heartbeat_seconds, longest_seconds=settings.max_stream_seconds, threads=files
    )

    allowed = settings.allowed
    admission = Admission(allowed, settings.check_limits)

    @asynccontextmanager
    async def managed(app: FastAPI) -> AsyncIterator[None]:
        if lifespan is None:
            yield
        else:
            async with lifespan:
                yield
        await tails.stop()
        admission.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.stop)

    @lru_cache(maxsize=1000)
    def roots_of(owner: str) -> Roots:
        own = allowed.of_owner(owner)
        return Roots([*map(Path, own.roots), *settings.readable], own.private)

    context = ApiContext(
        store=store,
        jobs=JobCache(store),
        settings=settings,
        cluster=cluster,
        check_fits=check_fits,
        unready_reason=unready_reason,
        roots_of=roots_of,
        admission=admission,
        metrics=Metrics(),
        files=files,
        histories=histories,
        runs=RunsNow(histories, JobProgress()),
        situation=situation or (lambda: alone),
        waiting=WaitingJobs(store, situation or (lambda: alone)),
        tails=tails,
        rate=RateLimiter(settings.requests_per_second, settings.request_burst),
        guesses=Guesses(settings.refusals_per_second, 10 * settings.refusals_per_second, store.find_token),
        peer_of=peer_of,
        meters=Meters(),
    )
    app = _GatedApp(
        title="Earshot",
        version=API_VERSION,
        description=_DESCRIPTION,
        lifespan=managed,
        # The routes of the reference have their own.
        openapi_url=None,
        dependencies=[Depends(check_parameters)],
        generate_unique_id_function=operation_id,
    )
    app.state.context = context
    gate = RequestGate(MethodsOfRoutes(app.inner, lambda: app.routes), settings, context.meters, tracing)
    app.outermost = gate if tracing is None else tracing.instrument(gate)
    install_error_handlers(app)
    v1 = APIRouter(prefix="/v1")
    for router in (
        job_routes.validation_router,
        job_routes.router,
        change_routes.router,
        command_routes.router,
        telemetry_routes.router,
        stream_routes.router,
        service_routes.cluster_router,
        about_routes.router,
    ):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(service_routes.router)
    app.include_router(reference_routes.router)
    return app


class _GatedApp(FastAPI):
    """FastAPI inside the request gate, which also sees the responses of FastAPI's own middleware."""

    outermost: ASGIApp

    async def inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app without the gate."""
        await super().__call__(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.outermost(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, including the models of bodies that routes parse themselves."""
        if not self.openapi_schema:
            document = get_openapi(
                title=self.title, version=self.version, description=self.description, routes=self.routes
            )
            schemas = document["components"]["schemas"]
            for model in (JobSpec, ScaleBody, PriorityBody, ProblemDocument):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            name_bounds(document)
            add_etags(document)
            self.openapi_schema = with_plain_names(document)
        return self.openapi_schema

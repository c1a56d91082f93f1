"""The API of the service as one ASGI app."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.cluster.inventory import Cluster
from orchestrator.job.spec import JobSpec
from orchestrator.schemas.api import ScaleBody
from orchestrator.service.admission.admission import Admission
from orchestrator.service.admission.roots import Roots
from orchestrator.service.api.gate import RequestGate
from orchestrator.service.api.job_cache import JobCache
from orchestrator.service.api.meters import Meters
from orchestrator.service.api.problems import ProblemDocument, install_error_handlers
from orchestrator.service.api.rate import RateLimiter
from orchestrator.service.api.routes import commands as command_routes
from orchestrator.service.api.routes import jobs as job_routes
from orchestrator.service.api.routes import service as service_routes
from orchestrator.service.api.routes import streams as stream_routes
from orchestrator.service.api.routes import telemetry as telemetry_routes
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.api.state import ApiContext, FitsCheck, ReadinessCheck
from orchestrator.service.observability.tracing import Tracing
from orchestrator.service.store.store import Store
from orchestrator.service.telemetry.columns import Metrics
from orchestrator.service.telemetry.histories import RunHistories
from orchestrator.service.telemetry.progress import JobProgress
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
) -> FastAPI:
    """Create the app.

    Args:
        store: must be open while requests are served; `lifespan` or the caller opens and closes it.
        lifespan: entered when the server starts, left when it stops.
    """
    settings = settings or ApiSettings()
    tails = Tails(heartbeat_seconds=settings.heartbeat_seconds, longest_seconds=settings.max_stream_seconds)

    @asynccontextmanager
    async def managed(app: FastAPI) -> AsyncIterator[None]:
        if lifespan is None:
            yield
        else:
            async with lifespan:
                yield
        await tails.stop()
        if tracing is not None:
            await asyncio.to_thread(tracing.stop)

    roots = Roots(settings.readable)
    context = ApiContext(
        store=store,
        jobs=JobCache(store),
        settings=settings,
        cluster=cluster,
        check_fits=check_fits,
        unready_reason=unready_reason,
        roots=roots,
        admission=Admission(
            roots,
            settings.reward_modules,
            settings.data_dir,
            judge_hosts=settings.judge_hosts,
            judge_keys=settings.judge_keys,
        ),
        metrics=Metrics(),
        histories=RunHistories(),
        progress=JobProgress(),
        tails=tails,
        rate=RateLimiter(settings.requests_per_second, settings.request_burst),
        refusals=RateLimiter(settings.refusals_per_second, 10 * settings.refusals_per_second),
        meters=Meters(),
    )
    app = _GatedApp(
        title="Earshot", version="1", description=_DESCRIPTION, lifespan=managed, docs_url=None, redoc_url=None
    )
    app.state.context = context
    gate = RequestGate(app.inner, settings, context.meters, tracing)
    app.outermost = gate if tracing is None else tracing.instrument(gate)
    install_error_handlers(app)
    v1 = APIRouter(prefix="/v1")
    for router in (
        job_routes.router,
        command_routes.router,
        telemetry_routes.router,
        stream_routes.router,
        service_routes.cluster_router,
    ):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(service_routes.router)
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
            for model in (JobSpec, ScaleBody, ProblemDocument):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            self.openapi_schema = document
        return self.openapi_schema

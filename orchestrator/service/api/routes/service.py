"""Health, readiness and Prometheus metrics of the service; the cluster."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from orchestrator.cluster.inventory import ClusterNode, ClusterUnavailableError
from orchestrator.schemas.api import ClusterView, HealthView, NodeView, UseView
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.exposition import job_metrics
from orchestrator.service.api.principal import AnyPrincipal, CurrentPrincipal, Principal
from orchestrator.service.api.problems import ProblemError, error_responses
from orchestrator.service.api.routes.job_access import Context
from orchestrator.service.api.state import ApiContext
from orchestrator.service.store.access import Role
from orchestrator.service.store.store import JobNotFoundError

router = APIRouter(tags=["service"])
cluster_router = APIRouter(tags=["cluster"])


@router.get(
    "/healthz",
    response_model=HealthView,
    summary="Check that the service is alive",
    responses=error_responses(token=False),
)
async def get_health() -> HealthView:
    """Return 200 while the process is alive. Needs no token and checks no dependencies."""
    return HealthView(status="ok")


@router.get(
    "/readyz",
    response_model=HealthView,
    summary="Check that the service can run jobs",
    responses=error_responses(ProblemCode.NOT_READY, ProblemCode.DATABASE_UNAVAILABLE, token=False),
)
async def get_readiness(context: Context) -> HealthView:
    """Return 503 while the database or the cluster cannot be reached. Needs no token."""
    await context.store.counts()
    reason = await context.unready_reason()
    if reason is not None:
        raise ProblemError(ProblemCode.NOT_READY, reason, headers={"Retry-After": "5"})
    return HealthView(status="ok")


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "Metrics in Prometheus' text format.",
        },
        **error_responses(),
    },
    summary="Export Prometheus metrics",
)
async def export_metrics(principal: AnyPrincipal, context: Context) -> Response:
    """Return metrics of jobs, queue, workers, learner, weight sync and API. Jobs appear only to their owner,
    to admins and to monitors.
    """
    # The default registry has the metrics of the supervisor and of the process itself.
    text = generate_latest(REGISTRY) + generate_latest(context.meters.registry) + await job_metrics(context, principal)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@cluster_router.get(
    "/cluster",
    response_model=ClusterView,
    responses=error_responses(ProblemCode.CLUSTER_UNAVAILABLE),
    summary="Show the cluster",
)
async def get_cluster(principal: CurrentPrincipal, context: Context) -> ClusterView:
    """Return the nodes of the cluster, their GPUs and the jobs that use them."""
    if context.cluster is None:
        raise ProblemError(ProblemCode.CLUSTER_UNAVAILABLE, "this service has no cluster")
    try:
        nodes = await context.cluster.nodes()
    except ClusterUnavailableError as error:
        raise ProblemError(ProblemCode.CLUSTER_UNAVAILABLE, str(error), headers={"Retry-After": "5"}) from error
    views = [await _node(context, principal, node) for node in nodes]
    alive = [node for node in nodes if node.alive]
    return ClusterView(
        nodes=views,
        cpus=sum(node.cpus for node in alive),
        gpus=sum(node.gpus for node in alive),
        gpus_used=sum(use.gpus for node in alive for use in node.uses),
        jobs=await context.store.counts(),
    )


async def _node(context: ApiContext, principal: Principal, node: ClusterNode) -> NodeView:
    return NodeView(
        id=node.id,
        address=node.address,
        alive=node.alive,
        cpus=node.cpus,
        gpus=node.gpus,
        gpu_type=node.gpu_type,
        memory_bytes=node.memory_bytes,
        uses=[
            UseView(
                job=use.job if await _can_see(context, principal, use.job) else "other", cpus=use.cpus, gpus=use.gpus
            )
            for use in node.uses
        ],
    )


async def _can_see(context: ApiContext, principal: Principal, job_id: str) -> bool:
    if principal.role is Role.ADMIN:
        return True
    try:
        return principal.can_see(await context.store.get(job_id))
    except JobNotFoundError:
        return False

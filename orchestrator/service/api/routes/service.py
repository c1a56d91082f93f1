"""The service itself: is it there, can it run jobs, what Prometheus wants to know; and the cluster."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from orchestrator.cluster.inventory import ClusterNode, ClusterUnavailableError
from orchestrator.schemas.api import ClusterView, HealthView, NodeView, UseView
from orchestrator.service.api.exposition import job_metrics
from orchestrator.service.api.principal import Current, Principal
from orchestrator.service.api.problems import ProblemError, documented
from orchestrator.service.api.routes.job_access import TheApi
from orchestrator.service.api.state import Api
from orchestrator.service.store.access import Role
from orchestrator.service.store.store import JobNotFoundError

router = APIRouter(tags=["service"])
cluster_router = APIRouter(tags=["cluster"])


@router.get("/healthz", response_model=HealthView, summary="Is the service there?", responses=documented())
async def healthz() -> HealthView:
    """Answers while the process is alive; needs no token and looks at nothing."""
    return HealthView(status="ok")


@router.get("/readyz", response_model=HealthView, summary="Can it run jobs?", responses=documented())
async def readyz(api: TheApi) -> HealthView:
    """Answers 503 while the database or the cluster cannot be reached; needs no token."""
    await api.store.counts()
    reason = await api.ready()
    if reason is not None:
        raise ProblemError(503, reason, headers={"Retry-After": "5"})
    return HealthView(status="ok")


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."},
        **documented(),
    },
    summary="For Prometheus",
)
async def metrics(principal: Current, api: TheApi) -> Response:
    """Jobs, queue, workers, learner, weight sync and the API itself; jobs by name only for whom they exist."""
    # The service's loop and the process itself count in the common registry.
    text = generate_latest(REGISTRY) + generate_latest(api.meters.registry) + await job_metrics(api, principal)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@cluster_router.get("/cluster", response_model=ClusterView, responses=documented(), summary="The cluster")
async def cluster(principal: Current, api: TheApi) -> ClusterView:
    """Nodes, their GPUs, and who uses them."""
    if api.cluster is None:
        raise ProblemError(503, "this service looks at no cluster")
    try:
        nodes = await api.cluster.nodes()
    except ClusterUnavailableError as error:
        raise ProblemError(503, str(error), headers={"Retry-After": "5"}) from error
    views = [await _node(api, principal, node) for node in nodes]
    alive = [node for node in nodes if node.alive]
    return ClusterView(
        nodes=views,
        cpus=sum(node.cpus for node in alive),
        gpus=sum(node.gpus for node in alive),
        gpus_used=sum(use.gpus for node in alive for use in node.uses),
        jobs=await api.store.counts(),
    )


async def _node(api: Api, principal: Principal, node: ClusterNode) -> NodeView:
    return NodeView(
        id=node.id,
        address=node.address,
        alive=node.alive,
        cpus=node.cpus,
        gpus=node.gpus,
        gpu_type=node.gpu_type,
        memory_bytes=node.memory_bytes,
        uses=[
            UseView(job=use.job if await _may_know(api, principal, use.job) else "other", cpus=use.cpus, gpus=use.gpus)
            for use in node.uses
        ],
    )


async def _may_know(api: Api, principal: Principal, job_id: str) -> bool:
    if principal.role is Role.ADMIN:
        return True
    try:
        return principal.sees(await api.store.get(job_id))
    except JobNotFoundError:
        return False

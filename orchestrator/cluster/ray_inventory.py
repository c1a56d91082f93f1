"""The inventory of a Ray cluster, from Ray's records: nodes, and the resources that jobs have reserved on them."""

from collections import defaultdict
from collections.abc import Sequence

from ray.job_submission import JobSubmissionClient
from ray.util.state import list_actors, list_jobs, list_nodes

from orchestrator.cluster.connection import RayConnection
from orchestrator.cluster.inventory import ClusterNode, Usage

_SECONDS = 10
_MOST = 10_000


class RayCluster:
    """See Cluster."""

    def __init__(self, connection: RayConnection) -> None:
        self._connection = connection

    async def nodes(self) -> Sequence[ClusterNode]:
        """See Cluster."""
        return await self._connection.call(_nodes)


def _nodes(client: JobSubmissionClient) -> list[ClusterNode]:
    options = {"address": client.get_address(), "timeout": _SECONDS, "limit": _MOST, "raise_on_missing_output": False}
    # The submission's id has the id of the service's job; any other job keeps the id that Ray gave it.
    names = {
        job.job_id: job.submission_id.rpartition("-")[0] or job.submission_id
        for job in list_jobs(**options)
        if job.job_id and job.submission_id
    }
    uses: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for actor in list_actors(filters=[("state", "=", "ALIVE")], detail=True, **options):
        required = actor.required_resources or {}
        if actor.node_id and (required.get("CPU") or required.get("GPU")):
            usage = uses[actor.node_id][names.get(actor.job_id, actor.job_id)]
            usage[0] += required.get("CPU", 0)
            usage[1] += required.get("GPU", 0)
    return [
        ClusterNode(
            id=node.node_id,
            address=node.node_ip,
            alive=node.state == "ALIVE",
            cpus=(node.resources_total or {}).get("CPU", 0),
            gpus=(node.resources_total or {}).get("GPU", 0),
            gpu_type=_gpu_type(node.resources_total or {}),
            memory_bytes=int((node.resources_total or {}).get("memory", 0)),
            uses=tuple(Usage(job, cpus, gpus) for job, (cpus, gpus) in sorted(uses[node.node_id].items())),
        )
        for node in list_nodes(**options)
    ]


def _gpu_type(resources: dict[str, float]) -> str | None:
    prefix = "accelerator_type:"
    return next((name.removeprefix(prefix) for name in resources if name.startswith(prefix)), None)

"""The inventory of a Ray cluster, from Ray's records: nodes, and the resources that jobs have reserved on them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

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
        cpus, gpus = (amount(actor.required_resources or {}, kind) for kind in ("CPU", "GPU"))
        if actor.node_id and (cpus or gpus):
            usage = uses[actor.node_id][names.get(actor.job_id, actor.job_id)]
            usage[0] += cpus
            usage[1] += gpus
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


def amount(required: Mapping[str, float], kind: str) -> float:
    """Return how much of a kind of resource an actor needs, inside a placement group or not.

    Inside one, Ray calls it `KIND_group_NUMBER_ID` and, once more, `KIND_group_ID`; the first may be missing.
    """
    numbered = sum(value for name, value in required.items() if re.fullmatch(rf"{kind}_group_\d+_[0-9a-f]+", name))
    any_number = sum(value for name, value in required.items() if re.fullmatch(rf"{kind}_group_[0-9a-f]+", name))
    return required.get(kind, 0) + (numbered or any_number)


def _gpu_type(resources: dict[str, float]) -> str | None:
    prefix = "accelerator_type:"
    return next((name.removeprefix(prefix) for name in resources if name.startswith(prefix)), None)

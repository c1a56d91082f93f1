"""Print what Ray at `HEAD:PORT` reports to its autoscaler, as one line of JSON."""

import json
import sys

from ray.autoscaler.v2.sdk import get_cluster_status

status = get_cluster_status(sys.argv[1], timeout=30)
wanted = [
    dict(bundle.bundle)
    for demand in status.resource_demands.ray_task_actor_demand
    for bundle in demand.bundles_by_count
    for _ in range(bundle.count)
]
print(json.dumps({"wanted": wanted, "idle": [node.ip_address for node in status.idle_nodes]}))

"""The RayJob variant: the RayCluster of the base for a single job."""

from pathlib import Path
from typing import Any

import yaml

_KUBERAY = Path(__file__).parent / "kuberay"
_RUN = "/data/runs/demo"
# If the run already exists, its cluster was lost: KubeRay creates another, on which the job resumes.
_ENTRYPOINT = (
    f"if [ -e {_RUN}/job.yaml ]; then exec earshot run --resume --run-dir {_RUN} --json; "
    f"else exec earshot run /etc/earshot/job.yaml --run-dir {_RUN} --json; fi"
)


def rayjob() -> dict[str, Any]:
    """Return the manifest."""
    cluster = yaml.safe_load((_KUBERAY / "base" / "raycluster.yaml").read_text(encoding="utf-8"))["spec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["volumeMounts"].append({"name": "job", "mountPath": "/etc/earshot", "readOnly": True})
    head["volumes"].append({"name": "job", "configMap": {"name": "earshot-job"}})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "earshot-demo"},
        "spec": {
            "entrypoint": _ENTRYPOINT,
            "submissionMode": "HTTPMode",
            "backoffLimit": 3,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": cluster,
        },
    }

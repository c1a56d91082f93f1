"""Pods of a RayCluster: each one's command and environment, as KubeRay's controller composes them.

After `ray-operator/controllers/ray/common/pod.go` of KubeRay (`setMissingRayStartParams`, `generateRayStartCommand`,
`convertParamMap`, `BuildPod`, `setContainerEnvVars`), as far as our manifests use it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from support.cluster.kustomize import Manifest

HEAD = "head"
_VALUED = {"log-color", "include-dashboard"}
"""Options that take `true` or `false` as a value; all others are flags."""
_SIZES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1 / 1000}
_DEFAULT_GRACE_SECONDS = 30
"""Kubernetes' default grace period, in seconds."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod's main container."""

    image: str
    command: list[str]
    """Empty: the image's entry point is run with `arguments`."""
    arguments: list[str]
    options: dict[str, str]
    """Options of `ray start`, if the pod runs it; `command` is composed of them."""
    environment: dict[str, str]
    grace_seconds: int
    """Seconds between SIGTERM and SIGKILL."""


def ray_pod(cluster: Manifest, group: str, secrets: Mapping[str, str]) -> Pod:
    """Return the pod of a RayCluster's head (`HEAD`) or of a worker group; `secrets` by NAME/KEY."""
    spec = cluster["spec"]
    assert spec["authOptions"]["mode"] == "token"
    groups = {HEAD: spec["headGroupSpec"]} | {each["groupName"]: each for each in spec["workerGroupSpecs"]}
    template = groups[group]["template"]["spec"]
    container = template["containers"][0]
    assert not container.keys() & {"command", "args", "lifecycle"}, "this helper composes commands only"
    service = f"{cluster['metadata']['name']}-head-svc.{cluster['metadata']['namespace']}.svc.cluster.local"
    options = dict(groups[group]["rayStartParams"])
    if group == HEAD:
        options["head"] = "true"
        options.setdefault("dashboard-host", "0.0.0.0")
        if spec["enableInTreeAutoscaling"]:
            options["no-monitor"] = "true"  # the autoscaler is a container of its own
    else:
        options.setdefault("address", f"{service}:6379")
    options.setdefault("metrics-export-port", "8080")
    options.setdefault("dashboard-agent-listen-port", "52365")
    options["block"] = "true"
    _add_resources(options, container["resources"])
    address = "127.0.0.1" if group == HEAD else service
    environment = {"RAY_PORT": "6379", "RAY_ADDRESS": f"{address}:6379", "RAY_AUTH_MODE": "token"}
    environment["RAY_AUTH_TOKEN"] = secrets[f"{spec['authOptions']['secretName']}/auth_token"]
    environment |= environment_of(container, secrets)
    grace = template.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_SECONDS)
    return Pod(container["image"], ray_start(options), [], options, environment, grace)


def service_pod(deployment: Manifest, secrets: Mapping[str, str]) -> Pod:
    """Return the pod of a Deployment."""
    template = deployment["spec"]["template"]["spec"]
    (container,) = template["containers"]
    return Pod(
        container["image"],
        container.get("command", []),
        container.get("args", []),
        {},
        environment_of(container, secrets),
        template.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_SECONDS),
    )


def ray_start(options: Mapping[str, str]) -> list[str]:
    """Return the container's command."""
    words = [
        f"--{name}" if value == "true" and name not in _VALUED else f"--{name}={value}"
        for name, value in sorted(options.items())
        if value != "false" or name in _VALUED
    ]
    return ["/bin/bash", "-c", "--", f"ulimit -n 65536; ray start {' '.join(words)}"]


def environment_of(container: Manifest, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return a container's variables, with the values of the secrets that it names."""
    found = {}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            reference = variable["valueFrom"]["secretKeyRef"]
            found[variable["name"]] = secrets[f"{reference['name']}/{reference['key']}"]
        else:
            found[variable["name"]] = variable["value"]
    return found


def _add_resources(options: dict[str, str], resources: Mapping[str, Any]) -> None:
    """Return the `ray start` resources that KubeRay derives from the container's limits."""
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    if (cpus := limits.get("cpu") or requests.get("cpu")) is not None:
        options.setdefault("num-cpus", str(math.ceil(quantity(cpus))))
    if "memory" in limits:
        options.setdefault("memory", str(int(quantity(limits["memory"]))))
    for name in sorted(limits):
        if name.endswith("gpu"):
            options.setdefault("num-gpus", str(int(quantity(limits[name]))))


def quantity(text: str) -> float:
    """Parse a Kubernetes quantity: 16Gi, 500m, 8."""
    unit = next((unit for unit in _SIZES if text.endswith(unit)), "")
    return float(text.removesuffix(unit)) * _SIZES.get(unit, 1)

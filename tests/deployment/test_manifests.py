"""The Kubernetes manifests are valid and consistent, with commands and paths that exist. None is applied here."""

import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from support.cluster.kuberay_pods import HEAD, ray_pod
from support.cluster.kustomize import Manifest, render
from support.cluster.manifests import (
    DEPLOY,
    check_earshot,
    check_image,
    check_no_secret,
    check_ray_start,
    read_yaml,
    service_routes,
    shared_crds,
    walk,
)

from orchestrator.job.spec_file import read_spec
from orchestrator.service.supervision.limits import Limits

KUBERAY = DEPLOY / "kuberay"
OVERLAYS = sorted((KUBERAY / "overlays").iterdir())
RENDERED = [KUBERAY / "base", *OVERLAYS, KUBERAY / "rayjob"]
CORE = {"apps/v1", "v1", "policy/v1", "networking.k8s.io/v1"}
KUBERNETES = "1.34.0"


@pytest.fixture(params=RENDERED, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def manifests(folder: Path) -> list[Manifest]:
    return render(folder)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def one(manifests: list[Manifest], kind: str, name: str = "earshot") -> Manifest:
    (found,) = (m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name)
    return found


def pods(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """Yield every pod template."""
    return [
        value["template"]
        for m in manifests
        for value in walk(m)
        if "containers" in value.get("template", {}).get("spec", {})
    ]


def ray_clusters(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [m["spec"] for m in of_kind(manifests, "RayCluster")] + [
        m["spec"]["rayClusterSpec"] for m in of_kind(manifests, "RayJob")
    ]


def test_core_kinds_are_valid(manifests: list[Manifest]) -> None:
    core = [manifest for manifest in manifests if manifest["apiVersion"] in CORE]
    assert core
    for manifest in core:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    for template in pods(manifests):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template.get("metadata", {})}}
        kubernetes_validate.validate(pod | {"spec": template["spec"]}, KUBERNETES, strict=True)


def test_ray_kinds_are_valid(manifests: list[Manifest]) -> None:
    checked = 0
    for kind, file in (("RayCluster", "ray.io_rayclusters.crd.yaml"), ("RayJob", "ray.io_rayjobs.crd.yaml")):
        for manifest in of_kind(manifests, kind):
            jsonschema.Draft202012Validator(crd_schema(shared_crds() / file)).validate(manifest)
            checked += 1
    assert checked


@cache
def crd_schema(path: Path) -> dict[str, Any]:
    """Validate against the CRD's v1 schema; unknown keys are errors, as for `kubectl apply`."""
    with path.open(encoding="utf-8") as file:
        crd = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == "v1")
    for each in walk(schema):
        if isinstance(each.get("properties"), dict) and not each.get("x-kubernetes-preserve-unknown-fields"):
            each.setdefault("additionalProperties", False)
        if each.get("x-kubernetes-int-or-string"):
            each["type"] = ["integer", "string"]
    # For metadata a CRD only says that it is an object.
    schema["properties"]["metadata"] = {"type": "object"}
    result: dict[str, Any] = schema
    return result


def test_the_schemas_find_mistakes() -> None:
    (cluster,) = of_kind(render(KUBERAY / "base"), "RayCluster")
    cluster["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(cluster, crd_schema(shared_crds() / "ray.io_rayclusters.crd.yaml"))
    service = one(render(KUBERAY / "base"), "Deployment")
    service["spec"]["replica"] = 1
    with pytest.raises(Exception, match="replica"):
        kubernetes_validate.validate(service, KUBERNETES, strict=True)


def test_images_are_pinned_and_pods_are_restricted(manifests: list[Manifest]) -> None:
    """Check the pod security standard `restricted`, which the namespace enforces for all pods."""
    (namespace,) = of_kind(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pods(manifests)
    for template in pods(manifests):
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == security["fsGroup"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            check_image(container["image"])
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]["memory"] and container["resources"]["limits"]["memory"]


def test_volumes_and_what_they_claim_are_there(manifests: list[Manifest]) -> None:
    claims = {m["metadata"]["name"] for m in of_kind(manifests, "PersistentVolumeClaim")}
    maps = {m["metadata"]["name"] for m in of_kind(manifests, "ConfigMap")}
    for template in pods(manifests):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts.keys() <= volumes.keys()
            assert mounts["data"] == "/data", "run directories are named by one path everywhere"
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "earshot-data") in claims
            assert volume.get("configMap", {}).get("name", "earshot-job") in maps | {"earshot-job"}


def test_selectors_find_their_pods(manifests: list[Manifest]) -> None:
    found = [template["metadata"]["labels"] for template in pods(manifests)]
    for manifest in manifests:
        for selector in (v for v in walk(manifest.get("spec", {})) if "matchLabels" in v):
            labels = selector["matchLabels"].items()
            if all(key.startswith("app.kubernetes.io/") for key, _ in labels):
                assert any(labels <= pod.items() for pod in found), (manifest["kind"], selector)
    for service in of_kind(manifests, "Service"):
        assert any(service["spec"]["selector"].items() <= pod.items() for pod in found)


def test_every_pod_has_a_policy_for_both_ways() -> None:
    manifests = render(KUBERAY / "base")
    policies = of_kind(manifests, "NetworkPolicy")
    for template in pods(manifests):
        labels = template["metadata"]["labels"]
        ways = {
            way
            for policy in policies
            if _selects(policy["spec"]["podSelector"], labels)
            for way in policy["spec"]["policyTypes"]
        }
        assert ways == {"Ingress", "Egress"}, labels


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert selector, "a policy for every pod"
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", [])
    )


@pytest.mark.parametrize("folder", [KUBERAY / "base", *OVERLAYS], ids=lambda folder: folder.name)
def test_the_services_command_and_probes_are_real(folder: Path) -> None:
    manifests = render(folder)
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    options = check_earshot(container["args"])
    Limits(options["max_running"], gpus=options["max_gpus"] or 1)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert options["port"] == ports["http"] == one(manifests, "Service")["spec"]["ports"][0]["port"]
    assert str(options["data_dir"]).startswith("/data/") and all(str(r).startswith("/data/") for r in options["root"])
    assert options["ray_address"] == f"http://{one(manifests, 'RayCluster')['metadata']['name']}-head-svc:8265"
    routes = service_routes()
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        assert get["path"] in routes and ports[get["port"]]
        assert container[probe]["timeoutSeconds"] < container[probe]["periodSeconds"]
    waits = container["startupProbe"]
    assert waits["periodSeconds"] * waits["failureThreshold"] > 60 + 30, "the database is waited for a minute"
    assert one(manifests, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    grows = any(group["maxReplicas"] > group["minReplicas"] for group in ray_clusters(manifests)[0]["workerGroupSpecs"])
    assert options["autoscaling"] == grows == ray_clusters(manifests)[0]["enableInTreeAutoscaling"]


def test_groups_are_what_the_overlays_are_for() -> None:
    shape = {
        folder.name: {
            group["groupName"]: (
                group["minReplicas"],
                group["maxReplicas"],
                int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]),
            )
            for group in ray_clusters(render(folder))[0]["workerGroupSpecs"]
        }
        for folder in OVERLAYS
    }
    assert shape == {
        "one-gpu": {"learner": (1, 1, 1)},
        "one-node": {"learner": (1, 1, 4), "rollout": (0, 4, 1)},
        "many-nodes": {"learner": (2, 2, 8), "rollout": (0, 32, 2)},
    }


def test_ray_asks_for_a_token_and_all_are_of_one_version(manifests: list[Manifest]) -> None:
    lock = (DEPLOY.parent / "requirements" / "gpu.lock").read_text()
    for cluster in ray_clusters(manifests):
        assert cluster["authOptions"] == {"mode": "token", "secretName": "earshot-ray-token"}
        assert f"\nray=={cluster['rayVersion']}\n" in lock
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) == 1
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_ray_knows_what_kuberay_tells_it(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] not in ("RayCluster", "RayJob"):
            continue
        spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
        groups = {each["groupName"]: each for each in spec["workerGroupSpecs"]}
        for group in (HEAD, *groups):
            made = ray_pod(manifest | {"spec": spec}, group, {"earshot-ray-token/auth_token": "the token"})
            shell = made.command[-1]
            assert made.command[:3] == ["/bin/bash", "-c", "--"] and "the token" not in shell
            told = check_ray_start(shlex.split(shell.removeprefix("ulimit -n 65536; ")))
            assert ("--head" in told) == (group == HEAD) and "--block" in told
            if group != HEAD:
                limits = groups[group]["template"]["spec"]["containers"][0]["resources"]["limits"]
                assert told["--num-gpus"] == limits["nvidia.com/gpu"]
                # Ray drains a node for 30 s by default; the images set 5.
                assert made.grace_seconds > 30


def test_secrets_are_named_and_not_there(folder: Path, manifests: list[Manifest]) -> None:
    assert not of_kind(manifests, "Secret")
    for value in (value for manifest in manifests for value in walk(manifest)):
        name = str(value.get("name", ""))
        if any(word in name for word in ("TOKEN", "PASSWORD", "DATABASE_URL", "SECRET")):
            assert value.keys() == {"name", "valueFrom"} and value["valueFrom"].keys() == {"secretKeyRef"}
    for path in sorted(KUBERAY.rglob("*.yaml")):
        check_no_secret(path)


def test_the_rayjob_runs_a_job_that_is_valid() -> None:
    (job,) = of_kind(render(KUBERAY / "rayjob"), "RayJob")
    entrypoint = job["spec"]["entrypoint"].removeprefix("if ").removesuffix("; fi")
    clauses = [clause.split("exec earshot ")[-1] for clause in entrypoint.split("; ")]
    runs = [shlex.split(clause) for clause in clauses if clause.startswith("run ")]
    assert len(runs) == 2
    resumed, first = map(check_earshot, runs)
    assert resumed["resume"] and resumed["run_dir"] == first["run_dir"]
    assert str(first["job"]) == "/etc/earshot/job.yaml"
    spec = read_spec(KUBERAY / "rayjob" / "job.yaml")
    assert spec.cluster.address == "auto"
    needed = spec.rollout.workers * spec.rollout.gpus + spec.learner.ranks
    most = sum(
        group["maxReplicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    )
    assert needed <= most


def test_the_service_monitor_asks_for_metrics_with_a_token() -> None:
    manifests = render(OVERLAYS[0].parent / "one-node")
    (endpoint,) = one(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["path"] in service_routes()
    assert endpoint["port"] in {port["name"] for port in one(manifests, "Service")["spec"]["ports"]}
    assert endpoint["honorLabels"], "jobs' metrics have a label `job` of their own"
    assert endpoint["authorization"]["credentials"] == {"name": "earshot-metrics", "key": "token"}


def test_kustomize_renders_the_same(folder: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip(
            "kubectl is not installed here: what the tests' own renderer makes is not compared with kustomize's"
        )
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=True)

    def by_name(found: list[Manifest]) -> dict[tuple[str, str], Manifest]:
        return {(m["kind"], m["metadata"]["name"]): m for m in found}

    assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(render(folder))


def test_every_kustomization_names_files_that_are_there() -> None:
    found = sorted(KUBERAY.rglob("kustomization.yaml"))
    used: set[Path] = set()
    for path in found:
        (kustomization,) = read_yaml(path)
        used |= {(path.parent / resource).resolve() for resource in kustomization.get("resources", [])}
        used |= {path.parent / name for each in kustomization.get("configMapGenerator", []) for name in each["files"]}
    for file in KUBERAY.rglob("*.yaml"):
        assert file.name == "kustomization.yaml" or file in used, f"{file} is in no kustomization"

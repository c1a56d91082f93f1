"""One machine in place of a Kubernetes cluster: the pods' own commands and environments, run as processes.

Substitutions (`Machine.here`, `Machine._on_this_machine`):

| in the manifests | here |
|---|---|
| /data, and /opt/earshot/bin of the images | a folder, and this Python's programs |
| the names of the head and of the service | 127.0.0.1 |
| 6379, 8265, 8420, and the ports that each pod has to itself | free ones |
| a pod's address | one of 127.0.0.0/8, but the head's |
| a pod's CPUs, GPUs, memory | 2 logical CPUs for a learner pod, 1 for a rollout pod; no GPU; 150 MB of object store |
| the image for GPUs | the environment of the one for CPUs |
| KubeRay's autoscaler, which makes and takes away pods | the test |
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from support.cluster.container import Container
from support.cluster.kuberay_pods import HEAD, Pod, ray_pod, ray_start, service_pod
from support.cluster.kustomize import Manifest, render
from support.cluster.manifests import DEPLOY, image_environment

from orchestrator.run.directory import RunDirectory

BIN = Path(sys.executable).parent
_CPUS = {HEAD: "0", "learner": "2", "rollout": "1"}
_WAIT_SECONDS = 300.0


class Machine:
    """Pods of one overlay, and a user of the service in them."""

    def __init__(self, folder: Path, overlay: str, secrets: dict[str, str], environment: dict[str, str]) -> None:
        """
        Args:
            folder: with a short path, since Ray puts sockets below it.
            secrets: by NAME/KEY, as the manifests name them.
            environment: further variables of the head, where drivers run.
        """
        self.folder, self._secrets, self.of_drivers = folder, secrets, environment
        self.secrets: list[str] = []
        """The secrets that must not appear anywhere."""
        self.data = folder / "data"
        (self.data / "inputs").mkdir(parents=True)
        self._manifests = render(DEPLOY / "kuberay" / "overlays" / overlay)
        self.ports = {port: free_port() for port in ("6379", "8265", "8420")}
        self.pods: dict[str, Container] = {}
        self.token = ""

    def manifest(self, kind: str, name: str = "earshot") -> Manifest:
        (found,) = (m for m in self._manifests if (m["kind"], m["metadata"]["name"]) == (kind, name))
        return found

    def here(self, text: str) -> str:
        """Translate a command's word or a variable's value for this machine."""
        text = re.sub("|".join(rf"\b{port}\b" for port in self.ports), lambda found: self.ports[found[0]], text)
        text = re.sub(
            r"\bearshot-head-svc(\.earshot\.svc\.cluster\.local)?|(?<=http://)earshot(?=:)", "127.0.0.1", text
        )
        text = re.sub(r"(?<![\w.])/data(?=/|$)", str(self.data), text)
        return text.replace("/opt/earshot/bin", str(BIN)).replace("$PATH", os.environ["PATH"])

    def add(self, group: str) -> Container:
        """Start a pod of the RayCluster and return once Ray runs in it."""
        pod = self._on_this_machine(group, ray_pod(self.manifest("RayCluster"), group, self._secrets))
        more = self.of_drivers if group == HEAD else {}
        made = self._started(f"{group}-{len(self.pods)}", pod, "worker-cpu", more)
        # KubeRay's init container makes workers wait for the head, too.
        self.wait(lambda: made.says("Ray runtime started."))
        return made

    def join(self) -> str:
        """Make a bare machine a node of the cluster, as docs/operate/bare-machines.md describes; return the output."""
        token = self.folder / "ray_token"
        token.touch(mode=0o600)
        token.write_text(self._secrets["earshot-ray-token/auth_token"])
        head = f"127.0.0.1:{self.ports['6379']}"
        return self._cluster("join", head, "--token-file", str(token), "--cpus", _CPUS["rollout"], "--gpus", "0")

    def leave(self) -> str:
        """Remove that machine from the cluster."""
        return self._cluster("down")

    def _cluster(self, *arguments: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment["EARSHOT_DATA"] = str(self.folder / "bare")
        command = [str(BIN / "earshot"), "cluster", *arguments, "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, (done.stderr, self.said())
        return done.stdout

    def serve(self) -> Container:
        """Start the service's pod."""
        pod = service_pod(self.manifest("Deployment"), self._secrets)
        assert not pod.command, "the image's entry point"
        entry = str(DEPLOY / "docker" / "entrypoint.sh")
        return self._started(f"service-{len(self.pods)}", replace(pod, command=[entry]), "service", {})

    def answers(self) -> None:
        """Return when the probe of the service's pod succeeds."""
        (container,) = self.manifest("Deployment")["spec"]["template"]["spec"]["containers"]
        probe = container["startupProbe"]
        url = f"http://127.0.0.1:{self.ports['8420']}{probe['httpGet']['path']}"
        seconds = float(probe["periodSeconds"] * probe["failureThreshold"])

        def asked() -> bool:
            try:
                return httpx.get(url, timeout=probe["timeoutSeconds"]).is_success
            except httpx.TransportError:
                return False

        self.wait(asked, seconds)

    def toolbox(self, *arguments: str, token: str = "") -> str:
        """Return the output of `kubectl exec deploy/earshot-toolbox -- earshot …`."""
        pod = service_pod(self.manifest("Deployment", "earshot-toolbox"), self._secrets)
        environment = self._environment(pod, "service") | ({"EARSHOT_TOKEN": token} if token else {})
        command = [str(BIN / "earshot"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (arguments, done.stderr, self.said())
        return done.stdout.strip()

    def earshot(self, *arguments: str) -> str:
        """Return the output of a command run by the user."""
        return self.toolbox(*arguments, token=self.token)

    def asked_of_the_autoscaler(self) -> dict[str, Any]:
        """Return what Ray reports to its autoscaler: missing resources (`wanted`) and addresses of `idle` nodes."""
        pod = ray_pod(self.manifest("RayCluster"), HEAD, self._secrets)
        command = [
            sys.executable,
            str(Path(__file__).with_name("autoscaler_view.py")),
            f"127.0.0.1:{self.ports['6379']}",
        ]
        environment = self._environment(pod, "worker-cpu")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def get(self, path: str) -> Any:
        """Get a route of the API."""
        return self._ask("GET", f"/v1{path}").json()

    def post(self, path: str, body: object = None) -> Any:
        return self._ask("POST", f"/v1{path}", json=body).json()

    def text(self, path: str) -> str:
        return self._ask("GET", path).text

    def cluster(self) -> dict[str, Any]:
        """Return the cluster as the service shows it; without nodes while it is unreachable."""
        url = f"http://127.0.0.1:{self.ports['8420']}/v1/cluster"
        answer = httpx.get(url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60)
        assert answer.status_code in (200, 503), answer.text
        found: dict[str, Any] = answer.json() if answer.is_success else {"nodes": []}
        return found

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{self.ports['8420']}{path}"
        # Events and logs in parts: as streams they would not end.
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        answer = httpx.request(method, url, headers=headers, timeout=60, **options)
        assert answer.is_success, (answer.text, self.said())
        return answer

    def run(self, job: str) -> RunDirectory:
        return RunDirectory(self.data / "service" / "runs" / job)

    def until(self, job: str, state: str, seconds: float = _WAIT_SECONDS) -> dict[str, Any]:
        """Wait until the job is in that state and return it."""

        def there() -> bool:
            found = self.get(f"/jobs/{job}")
            assert found["state"] == state or found["state"] not in ("failed", "succeeded", "cancelled"), found
            return bool(found["state"] == state)

        self.wait(there, seconds)
        record: dict[str, Any] = self.get(f"/jobs/{job}")
        return record

    def wait(self, there: Callable[[], bool], seconds: float = _WAIT_SECONDS) -> None:
        """Wait until a condition holds; restart containers that end in the meantime."""
        deadline = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < deadline, f"nothing happened within {seconds:.0f} s\n{self.said()}"
            for pod in self.pods.values():
                pod.tend()
            time.sleep(0.3)

    def said(self) -> str:
        """Return the ends of all logs."""
        files = sorted(
            path for name in ("driver.log", "events.jsonl") for path in self.data.glob(f"service/runs/*/{name}")
        )
        ends = [f"{path}\n{path.read_text(errors='replace')[-1500:]}" for path in files]
        return "\n\n".join([*(pod.said() for pod in self.pods.values()), *ends])

    def end(self) -> None:
        """Stop every process."""
        for pod in self.pods.values():
            pod.kill()
        self.leave()

    def _started(self, name: str, pod: Pod, image: str, more: dict[str, str]) -> Container:
        command = [self.here(word) for word in (*pod.command, *pod.arguments)]
        environment = self._environment(pod, image) | more
        made = self.pods[name] = Container(name, command, environment, self.folder, pod.grace_seconds)
        made.start()
        return made

    def _environment(self, pod: Pod, image: str) -> dict[str, str]:
        """Merge the variables of the machine (without Earshot's and Ray's), the image and the pod."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(("EARSHOT_", "RAY_"))}
        found = image_environment(DEPLOY / "docker" / f"{image}.Dockerfile") | pod.environment
        return own | {name: self.here(value) for name, value in found.items()}

    def _on_this_machine(self, group: str, pod: Pod) -> Pod:
        """Add options of `ray start` for resources that pods own and processes on one machine share."""
        options = {name: value for name, value in pod.options.items() if name != "memory"}
        options |= {"num-cpus": _CPUS[group], "num-gpus": "0", "object-store-memory": "150000000"}
        options |= {"metrics-export-port": free_port(), "dashboard-agent-listen-port": free_port()}
        options |= {"min-worker-port": "0", "max-worker-port": "0"}
        if group == HEAD:
            # Defaults that KubeRay leaves out.
            options |= {"port": "6379", "dashboard-port": "8265", "ray-client-server-port": free_port()}
            options |= {"temp-dir": str(self.folder / f"ray-{len(self.pods)}")}
        else:
            options |= {"node-ip-address": f"127.0.1.{len(self.pods)}"}
        return replace(pod, options=options, command=ray_start(options))


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])

"""The manifests' own commands run on one machine: nodes join and leave during a job, the service is upgraded, the head
is lost. `machine.py` lists the substitutions; neither KubeRay nor Kubernetes is involved.
"""

import json
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.cluster.kuberay_pods import HEAD
from support.cluster.machine import Machine
from support.postgres import postgres

from orchestrator.service.store.database import sqlite_url

__all__ = ["postgres"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS, QUESTIONS = 160, 4


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest, benchmark_home: Path, tiny_folder: Path) -> Iterator[Machine]:
    """Start a head, a learner pod and a rollout pod, each a Ray node, and the service with its database."""
    folder = Path(tempfile.mkdtemp(prefix="earshot-", dir="/tmp"))
    password, ray_token, tracker_key = (secrets.token_hex(length) for length in (16, 32, 20))
    known = {"earshot-ray-token/auth_token": ray_token, "earshot-database/url": database(request, folder, password)}
    made = Machine(folder, "one-node", known, {"WANDB_API_KEY": tracker_key})
    made.secrets = [password, ray_token, tracker_key]
    shutil.copytree(benchmark_home, made.data / "inputs" / "data")
    shutil.copytree(tiny_folder, made.data / "inputs" / "tiny")
    try:
        for group in (HEAD, "learner", "rollout"):
            made.add(group)
        made.token = made.toolbox("token", "create", "ada", "--role", "admin")
        made.secrets.append(made.token)
        made.serve()
        made.answers()
        made.wait(lambda: len(nodes(made)) == 3)
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


def database(request: pytest.FixtureRequest, folder: Path, password: str) -> str:
    """Return PostgreSQL's URL if it is installed, with a password that it ignores."""
    try:
        url: str = request.getfixturevalue("postgres").new_database()
    except pytest.skip.Exception:
        return sqlite_url(folder / "earshot.db")
    return url.replace("earshot@", f"earshot:{password}@")


def nodes(machine: Machine) -> dict[str, dict[str, Any]]:
    """Return the nodes that are alive, by id; empty while the cluster does not answer."""
    found = machine.cluster()
    return {node["id"]: node for node in found["nodes"] if node["alive"]}


def submit(machine: Machine) -> str:
    """Submit a job of `test_service.py`'s size and return its id after its first steps."""
    inputs = machine.data / "inputs"
    job = {
        "name": "rehearsal",
        "seed": 5,
        "steps": STEPS,
        "model": {"path": str(inputs / "tiny"), "max_context": 256},
        "data": {"train": str(inputs / "data" / "train.jsonl")},
        "rollout": {"workers": 1, "group_size": 4, "questions_per_step": QUESTIONS, "max_tokens": 8, "threads": 1},
        "learner": {"optimizer": {"learning_rate": 1.0e-3}, "threads": 1},
        "checkpoint": {"every": 2, "keep_last": 2},
    }
    made: str = machine.post("/jobs", job)["id"]
    machine.until(made, "running")
    machine.wait(lambda: steps(machine, made) > 2)
    return made


def steps(machine: Machine, job: str) -> int:
    return len(machine.run(job).metrics())


def workers(machine: Machine, job: str) -> list[str]:
    return sorted(worker["state"] for worker in machine.get(f"/jobs/{job}/workers")["items"])


def hold(machine: Machine, job: str) -> None:
    """Pause the job, so that slow machines cost it no steps."""
    machine.post(f"/jobs/{job}/pause")
    machine.until(job, "paused")


def go_on(machine: Machine, job: str) -> None:
    machine.post(f"/jobs/{job}/resume")
    machine.until(job, "running")


def check_ended(machine: Machine, job: str, attempts: int, restarts: int = 0) -> None:
    """Check that a job did each step once, and that its questions add up."""
    record = machine.until(job, "succeeded")
    assert (record["attempt"], record["restarts"]) == (attempts, restarts)
    run = machine.run(job)
    assert [metrics["step"] for metrics in run.metrics()] == list(range(1, STEPS + 1))
    questions = dict(run.summary()["questions"])
    assert questions.pop("drawn") == STEPS * QUESTIONS == sum(questions.values())
    assert questions["in_flight"] == 0


def test_nodes_come_and_go_under_a_job(machine: Machine) -> None:
    job = submit(machine)
    at_first = nodes(machine)
    assert sorted(node["cpus"] for node in at_first.values()) == [0, 1, 2]
    assert len({node["address"] for node in at_first.values()}) == 3
    for node in at_first.values():
        # Learner, rollout worker and reward actor fill both workers; the head has the driver only.
        assert sum(use["cpus"] for use in node["uses"] if use["job"] == job) == node["cpus"]

    # More than fit: one waits, and that is what the autoscaler sees. A pod comes, and it is placed there.
    hold(machine, job)
    machine.earshot("scale", job, "2")
    machine.wait(lambda: workers(machine, job) == ["pending", "serving"])
    assert machine.asked_of_the_autoscaler()["wanted"] == [{"CPU": 1.0}]
    pod = machine.add("rollout")
    machine.wait(lambda: workers(machine, job) == ["serving", "serving"])
    assert machine.asked_of_the_autoscaler()["wanted"] == []
    (new,) = nodes(machine).keys() - at_first.keys()
    assert new in [worker["node"] for worker in machine.get(f"/jobs/{job}/workers")["items"]]
    go_on(machine, job)

    # It is removed during a step; the job continues with the remaining workers.
    pod.stop()
    machine.wait(lambda: any(e["kind"] == "worker_lost" and e["node"] == new for e in machine.run(job).events()))
    machine.wait(lambda: new not in nodes(machine), 60)
    done = steps(machine, job)
    machine.wait(lambda: steps(machine, job) > done + 2)
    hold(machine, job)
    machine.wait(lambda: workers(machine, job) == ["pending", "serving"])

    # Another one joins, as a bare machine does.
    assert json.loads(machine.join())["role"] == "worker"
    machine.wait(lambda: workers(machine, job) == ["serving", "serving"])
    go_on(machine, job)
    check_ended(machine, job, attempts=1)
    kinds = [event["kind"] for event in machine.run(job).events()]
    assert kinds.count("worker_lost") == 1 and "reward_restarted" not in kinds

    # Nothing is running any more: the autoscaler may remove all of them.
    machine.wait(lambda: not any(node["uses"] for node in nodes(machine).values()))
    machine.wait(lambda: len(machine.asked_of_the_autoscaler()["idle"]) >= 3)
    assert json.loads(machine.leave())["ended"]["role"] == "worker"
    machine.wait(lambda: nodes(machine).keys() == at_first.keys(), 60)


@pytest.fixture(scope="module")
def job(machine: Machine) -> str:
    """Return a worker that is running."""
    return submit(machine)


class Listener:
    """Follow a job's events from an id on, until stopped or until the service ends."""

    def __init__(self, machine: Machine, job: str, last: str = "0") -> None:
        self.got: list[dict[str, Any]] = []
        self.last = last
        url = f"http://127.0.0.1:{machine.ports['8420']}/v1/jobs/{job}/events"
        headers = {"Authorization": f"Bearer {machine.token}", "Accept": "text/event-stream", "Last-Event-ID": last}
        self._thread = threading.Thread(target=self._follow, args=(url, headers), daemon=True)
        self._thread.start()

    def _follow(self, url: str, headers: dict[str, str]) -> None:
        identifier = ""
        try:
            with httpx.stream("GET", url, headers=headers, timeout=120) as answer:
                for line in answer.iter_lines():
                    if line.startswith("id: "):
                        identifier = line.removeprefix("id: ")
                    elif line.startswith("data: "):
                        self.got.append(json.loads(line.removeprefix("data: ")))
                        self.last = identifier
        except httpx.TransportError:
            return

    def ended(self) -> bool:
        return not self._thread.is_alive()


def test_a_new_service_takes_over(machine: Machine, job: str) -> None:
    (old,) = (pod for name, pod in machine.pods.items() if name.startswith("service"))
    run, listener = machine.run(job), Listener(machine, job)
    driver = psutil.Process([e for e in run.events() if e["kind"] == "attempt"][-1]["pid"])
    machine.wait(lambda: listener.got != [])

    # `Recreate` stops the old pod first. A second one started next to it would not serve.
    early = machine.serve()
    refused = early.wait(60)
    assert refused == 2 and "a service runs on this data directory" in early.said()
    early.kill()
    assert old.stop() == 0
    machine.wait(listener.ended, 30)
    done = steps(machine, job)
    machine.wait(lambda: steps(machine, job) > done + 2)  # no service is running

    machine.serve()
    machine.answers()
    assert machine.get(f"/jobs/{job}")["state"] == "running"
    again = Listener(machine, job, listener.last)
    hold(machine, job)
    machine.wait(lambda: again.got[-1:] != [] and again.got[-1].get("state") == "paused")
    assert listener.got + again.got == run.events()
    assert driver.is_running() and [event["kind"] for event in run.events()].count("attempt") == 1
    assert machine.get(f"/jobs/{job}")["attempt"] == 1
    go_on(machine, job)


def test_a_job_goes_on_when_the_head_is_lost(machine: Machine, job: str) -> None:
    run = machine.run(job)
    machine.wait(lambda: any(event["kind"] == "checkpoint" for event in run.events()))
    (head,) = (pod for name, pod in machine.pods.items() if name.startswith(HEAD))
    before = nodes(machine)

    # Driver, GCS and dashboard run in the pod. While it is down, no job is declared lost.
    head.kill()
    url = f"http://127.0.0.1:{machine.ports['8420']}/readyz"
    machine.wait(lambda: httpx.get(url, timeout=30).status_code == 503)
    assert machine.get(f"/jobs/{job}")["state"] == "running"

    # KubeRay makes another pod of the same command, and pods whose Ray has ended are started again.
    machine.add(HEAD)
    record = machine.until(job, "recovering")
    assert "was lost with its Ray cluster" in record["cause"]
    machine.until(job, "running", seconds=600)
    assert not nodes(machine).keys() & before.keys()
    check_ended(machine, job, attempts=2)
    (resumed,) = [event for event in run.events() if event["kind"] == "resumed"]
    assert resumed["step"] >= 2


def bytes_of(path: Path) -> bytes:
    """Return the file's content; empty if it no longer exists, like temporary files that Ray renames."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def test_no_secret_is_anywhere(machine: Machine) -> None:
    """No secret is in the logs of service, drivers and Ray, in run directories, or in the API's answers."""
    (service,) = (pod for name, pod in machine.pods.items() if name.startswith("service") and pod.runs())
    jobs = [job["id"] for job in machine.get("/jobs")["items"]]
    shown = [machine.text("/metrics"), machine.text("/v1/jobs"), machine.text("/v1/cluster")]
    for job in jobs:
        names = ("", "/events", "/logs", "/workers", "/metrics", "/samples", "/checkpoints")
        shown += [machine.text(f"/v1/jobs/{job}{name}") for name in names]
    assert all(shown)
    files = [path for path in machine.folder.rglob("*") if path.is_file() and path.name != "ray_token"]
    assert {service.log_file, machine.run(jobs[0]).path / "driver.log"} <= {*files}
    assert any(path.name.startswith("gcs_server") for path in files), "Ray's own logs"
    for secret in machine.secrets:
        assert not [text[:80] for text in shown if secret in text]
        assert not [path for path in files if secret.encode() in bytes_of(path)]


def test_everything_ends(machine: Machine) -> None:
    """Runs last: each pod is stopped as Kubernetes would."""
    for pod in reversed([pod for pod in machine.pods.values() if pod.runs()]):
        pod.stop()
    assert [line for pod in machine.pods.values() for line in pod.left()] == []
    found = psutil.process_iter(["cmdline"])
    assert not [p.pid for p in found if str(machine.folder) in " ".join(p.info["cmdline"] or ())]

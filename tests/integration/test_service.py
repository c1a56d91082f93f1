"""The real command, a real Ray and real drivers of a tiny model, each of which is killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from integration.conftest import EARSHOT, end, lines
from support.cluster.sockets import beyond_loopback, listening

from orchestrator.cluster.core_share import NICENESS
from orchestrator.cluster.local_ray import LocalRay
from orchestrator.run.directory import RunDirectory

STEPS = 60
LOST = "the driver was lost with its Ray cluster; this is not counted as a restart"


def is_of_job(process: psutil.Process) -> bool:
    """Return whether Ray started the process for a job: an actor with what it started, or a driver."""
    title = " ".join(process.cmdline())
    return any(name in title for name in ("RolloutWorker", "LearnerActor", "RewardActor", "orchestrator.driver "))


class Service:
    """`earshot serve` on one data directory, restarted after each kill."""

    def __init__(self, data_dir: Path, root: Path) -> None:
        self.data_dir, self._root = data_dir, root
        self._log = data_dir.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._http: httpx.Client | None = None
        self.url = ""

    def start(self, *options: str) -> None:
        """Return once the API answers."""
        before = len(self.log()) if self._log.exists() else 0
        command = [EARSHOT, "serve", "--port", "0", "--data-dir", self.data_dir, "--root", self._root]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*command, "--max-running", "1", *options], stdout=log, stderr=log)
        deadline = time.monotonic() + 180
        while not (found := re.search(r"serving (http://[\d.:]+)", self.log()[before:])):
            assert self._process.poll() is None, self.log()[before:]
            assert time.monotonic() < deadline, self.log()[before:]
            time.sleep(0.1)
        self.url = found[1]
        self._http = httpx.Client(
            # A connection that was idle for some seconds may be closed just when it is used again.
            base_url=f"{self.url}/v1",
            timeout=30,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)

    def stop(self) -> int:
        """Stop it as a service manager does; return the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=60)

    def end(self) -> None:
        """Stop every process, however the test ended."""
        if self._process is not None:
            end(self._process)
        LocalRay(self.data_dir).stop()

    def log(self) -> str:
        return "".join(line for line in self._log.open() if '"message": "request"' not in line)

    def said(self) -> str:
        """Return the ends of the logs and events of service and drivers."""
        files = sorted(path for name in ("driver.log", "events.jsonl") for path in self.data_dir.glob(f"runs/*/{name}"))
        return "\n\n".join([self.log()[-2000:], *(f"{path}\n{path.read_text()[-1500:]}" for path in files)])

    def submit(self, job: dict[str, Any], priority: int = 0, **headers: str) -> str:
        assert self._http is not None
        answer = self._http.post("/jobs", json=job, headers=headers, params={"priority": priority})
        assert answer.is_success, answer.text
        return str(answer.json()["id"])

    def get(self, path: str) -> Any:
        assert self._http is not None
        answer = self._http.get(path)
        assert answer.is_success, answer.text
        return answer.json()

    def cancel(self, job: str) -> None:
        assert self._http is not None
        assert self._http.post(f"/jobs/{job}/cancel").is_success

    def run_dir(self, job: str) -> Path:
        return self.data_dir / "runs" / job

    def run(self, job: str) -> RunDirectory:
        return RunDirectory(self.run_dir(job))

    def scale(self, job: str, count: int) -> None:
        assert self._http is not None
        answer = self._http.patch(f"/jobs/{job}/rollout-workers", json={"count": count})
        assert answer.status_code == 202, answer.text

    def serving(self, job: str) -> int:
        """Return the number of rollout workers that serve."""
        return sum(worker["state"] == "serving" for worker in self.get(f"/jobs/{job}/workers")["items"])

    def until(self, job: str, *states: str, seconds: float = 240) -> dict[str, Any]:
        def there() -> bool:
            return self.get(f"/jobs/{job}")["state"] in states

        self.wait(there, seconds)
        found: dict[str, Any] = self.get(f"/jobs/{job}")
        return found

    def wait(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"nothing happened in time\n{self.said()}"
            time.sleep(0.2)

    def processes(self) -> list[int]:
        """Return the processes that use the data directory."""
        found = psutil.process_iter(["cmdline"])
        return [p.pid for p in found if str(self.data_dir) in " ".join(p.info["cmdline"] or ())]

    def driver(self, job: str) -> psutil.Process:
        """Return the driver process of the current attempt."""
        return psutil.Process([e for e in self.run(job).events() if e["kind"] == "attempt"][-1]["pid"])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    # Ray puts sockets below it, whose paths have to be short.
    folder = Path(tempfile.mkdtemp(prefix="earshot-", dir="/tmp"))
    service = Service(folder / "data", tmp_path)
    try:
        yield service
    finally:
        service.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def job(benchmark_home: Path, tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A job of about a minute, with all files under the service's root."""
    shutil.copytree(benchmark_home, tmp_path / "data")
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    return {
        "name": "small",
        "seed": 5,
        "steps": STEPS,
        "model": {"path": str(tmp_path / "tiny"), "max_context": 256},
        "data": {"train": str(tmp_path / "data" / "train.jsonl")},
        "rollout": {"workers": 1, "group_size": 4, "questions_per_step": 4, "max_tokens": 8, "threads": 1},
        "learner": {"optimizer": {"learning_rate": 1.0e-3}, "threads": 1},
        "checkpoint": {"every": 2, "keep_last": 2},
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jobs_outlive_service_and_driver(service: Service, job: dict[str, Any]) -> None:
    service.start()
    first = service.submit(job, **{"Idempotency-Key": "first"})
    second = service.submit(job)
    assert service.submit(job, **{"Idempotency-Key": "first"}) == first
    # It is scaled before its driver runs.
    service.wait((service.run_dir(first) / "job.yaml").exists)
    service.scale(first, 2)
    service.until(first, "running")
    service.wait(lambda: service.serving(first) == 2)

    # The service is killed: the job does not notice.
    service.kill()
    driver = service.driver(first)
    done = len(service.run(first).metrics())
    service.wait(lambda: len(service.run(first).metrics()) > done + 2)
    service.start()
    assert service.get(f"/jobs/{first}")["state"] == "running"
    assert service.get(f"/jobs/{second}")["state"] == "queued"
    assert service.driver(first) == driver
    assert driver.is_running()
    (use,) = service.get("/cluster")["nodes"][0]["uses"]
    # Two workers, the rank and the reward actor.
    assert (use["job"], use["cpus"]) == (first, 4)

    # Its driver is killed: another one resumes from the last checkpoint.
    service.wait(lambda: any(event["kind"] == "checkpoint" for event in service.run(first).events()))
    driver.kill()
    assert "killed by signal 9" in service.until(first, "recovering", seconds=60)["cause"]
    # It is scaled while it has no driver.
    service.scale(first, 1)
    service.cancel(second)
    assert service.get(f"/jobs/{second}")["state"] == "cancelled"
    service.until(first, "running")
    # The service is killed again, and the job ends while there is none.
    service.kill()
    service.wait(lambda: service.run(first).summary() is not None)
    service.start()
    record = service.until(first, "succeeded", seconds=60)
    assert (record["attempt"], record["restarts"]) == (2, 1)
    run = service.run(first)
    assert [e["target"] for e in run.events() if e["kind"] == "scaled"] == [2, 1]
    kinds = [e["kind"] for e in run.events()]
    second = run.events()[len(kinds) - kinds[::-1].index("attempt") :]
    assert [e["worker"] for e in second if e["kind"] == "worker_started"] == ["rollout-0"]
    assert [e["kind"] for e in run.events()].count("command_failed") == 0
    assert [e["kind"] for e in run.events()].count("attempt") == 2
    (resumed,) = [e for e in run.events() if e["kind"] == "resumed"]
    assert resumed["step"] >= 2
    assert [m["step"] for m in lines(run.path / "metrics.jsonl")] == list(range(1, STEPS + 1))
    questions = run.summary()["questions"]
    assert questions["drawn"] == STEPS * 4
    assert sum(count for name, count in questions.items() if name != "drawn" and isinstance(count, int)) == STEPS * 4

    # Nothing runs any more: the service ends and takes its Ray along.
    assert service.stop() == 0
    assert service.processes() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_evaluation_is_a_job_like_any_other(service: Service, job: dict[str, Any]) -> None:
    questions = str(Path(job["data"]["train"]).with_name("heldout.jsonl"))
    service.start()
    found = service.submit(
        {
            "name": "how-good",
            "method": "evaluate",
            "model": job["model"],
            "data": {"evaluation": questions},
            "evaluation": {"questions": 6},
            "rollout": {"max_tokens": 8, "threads": 1},
        }
    )
    record = service.until(found, "succeeded", "failed")
    assert (record["state"], record["progress"]["fraction"]) == ("succeeded", 1.0), service.said()
    run = service.run(found)
    result = json.loads(run.evaluation_file.read_text())
    assert (result["count"], len(lines(run.path / "predictions.jsonl"))) == (6, 6)
    shown = record["progress"]["evaluation"]
    assert [shown[name] for name in ("accuracy", "silence_accuracy", "shuffled_accuracy")] == [
        result[name] for name in ("accuracy", "silence_accuracy", "shuffled_accuracy")
    ]
    assert service.stop() == 0
    assert service.processes() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jobs_give_way_and_outlive_ray(service: Service, job: dict[str, Any]) -> None:
    service.start("--preemption")
    low = service.submit({**job, "steps": 10_000})
    service.until(low, "running")
    service.wait(lambda: len(service.run(low).metrics()) > 2)

    # A job of higher priority preempts it.
    high = service.submit({**job, "steps": 10_000}, priority=1)
    assert high in service.until(low, "queued")["cause"]
    events = service.run(low).events()
    (asked,) = [i for i, event in enumerate(events) if event["kind"] == "command"]
    assert "checkpoint" in [event["kind"] for event in events[asked:]]
    service.until(high, "running")

    # Nothing of Ray and of the job on it is for other machines, and the job's processes yield to others.
    ray = json.loads((service.data_dir / "ray.json").read_text())["pid"]
    assert len(listening(ray)) > 20
    assert beyond_loopback(ray) == {}
    assert {p.nice() for p in psutil.Process(ray).children(recursive=True) if is_of_job(p)} == {NICENESS}

    # Ray is killed: the service starts another one, and the job continues there.
    os.kill(ray, signal.SIGKILL)
    record = service.until(high, "recovering")
    assert (record["attempt"], record["cause"]) == (1, LOST)
    record = service.until(high, "running")
    assert (record["attempt"], record["restarts"]) == (2, 0)

    # The preempted job resumes from its checkpoint.
    service.cancel(high)
    service.until(high, "cancelled", seconds=60)
    record = service.until(low, "running")
    assert (record["attempt"], record["restarts"]) == (2, 0)
    (resumed,) = [event for event in service.run(low).events() if event["kind"] == "resumed"]
    assert resumed["step"] >= 2
    service.cancel(low)
    service.until(low, "cancelled", seconds=60)
    # It ended in order, and was not killed once Ray's patience was over.
    assert service.run(low).summary()["state"] == service.run(low).events()[-1]["state"] == "cancelled"
    service.wait(lambda: not service.get("/cluster")["nodes"][0]["uses"], 30)
    assert service.stop() == 0
    assert service.processes() == []

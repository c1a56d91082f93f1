"""The Ray that a service or `earshot run` starts on its own machine."""

import errno
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.cluster.sockets import beyond_loopback, listening

from orchestrator.cluster import local_ray
from orchestrator.cluster.core_share import NICENESS, session_niceness
from orchestrator.cluster.local_ray import LocalRay
from orchestrator.cluster.process import StartError

AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}

# A job's session with two actors, which prints the process whose family listens, and waits.
SESSION = """
import os, sys
import ray
from orchestrator.driver.session import ray_session
from orchestrator.job.spec import JobSpec

spec = JobSpec.model_validate({"model": {"path": "x"}, "data": {"train": "x"}, "steps": 1})
with ray_session(spec):
    @ray.remote(num_cpus=0)
    class Actor:
        def address(self):
            return ray.util.get_node_ip_address()
    print(os.getpid(), *ray.get([a.address.remote() for a in [Actor.remote(), Actor.remote()]]), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory whose path is short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="earshot-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ray(data_dir: Path) -> Iterator[LocalRay]:
    ray = LocalRay(data_dir)
    yield ray
    ray.stop()


def pid_of(data_dir: Path) -> int:
    return int(json.loads((data_dir / "ray.json").read_text())["pid"])


def test_a_local_ray_is_for_this_machine_only_and_keeps_its_priority(ray: LocalRay, data_dir: Path) -> None:
    url = ray.ensure()
    root = pid_of(data_dir)
    # The dashboard answers before the agents listen.
    deadline = time.monotonic() + 60
    places = listening(root)
    while not {title.split()[0] for title in places.values()} >= AGENTS:
        assert time.monotonic() < deadline, places
        time.sleep(0.1)
        places = listening(root)
    assert len(places) > 7
    assert any(f"http://127.0.0.1:{port}" == url for _, port in places)
    assert beyond_loopback(root) == {}
    # Its session yields to others; within it, Ray's own processes go before those of jobs.
    if session_niceness() is not None:
        assert session_niceness(root) == NICENESS
    family = (psutil.Process(root), *psutil.Process(root).children(recursive=True))
    assert {process.nice() for process in family if not process.name().startswith("ray::IDLE")} == {0}


def test_the_ray_of_a_run_is_for_this_machine_only() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SESSION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdout is not None and run.stdin is not None
            pid, *addresses = run.stdout.readline().split()
            assert addresses == ["127.0.0.1"] * 2
            assert len(listening(int(pid))) > 5
            assert beyond_loopback(int(pid)) == {}
        finally:
            run.stdin.close()
    assert run.returncode == 0


FAILS = """
import sys
print("the object store has no room", flush=True)
print("raylet ended with 7", flush=True)
sys.exit(3)
"""


def test_each_failed_start_is_logged_with_its_cause(
    ray: LocalRay, data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local_ray, "ray_start", lambda *_: [sys.executable, "-c", FAILS])
    monkeypatch.setattr(local_ray, "back_off", lambda failures: 0.2)
    cause = r"Ray did not start: exit code 3, load [\d.]+ on \d+ cores"
    with caplog.at_level(logging.ERROR):
        with pytest.raises(StartError, match=cause) as first:
            ray.ensure()
        # Until the next attempt the cause is repeated, and nothing is started.
        with pytest.raises(StartError, match=cause + r".*raylet ended with 7.*next attempt in"):
            ray.ensure()
        time.sleep(0.25)
        with pytest.raises(StartError):
            ray.ensure()
    assert "the object store has no room | raylet ended with 7" in str(first.value)
    assert str(data_dir / "ray.log") in str(first.value)
    assert "raylet" not in first.value.summary and str(data_dir) not in first.value.summary
    assert [f"failure {number} in a row" in record.message for number, record in enumerate(caplog.records, 1)] == [
        True
    ] * 2
    assert all("raylet ended with 7" in record.message for record in caplog.records)


def test_an_error_of_the_system_is_a_failed_start(ray: LocalRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(count: int) -> list[int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(local_ray, "_free_ports", fail)
    monkeypatch.setattr(local_ray, "back_off", lambda failures: 60)
    with pytest.raises(StartError, match=r"Ray did not start: OSError.*Too many open files"):
        ray.ensure()
    with pytest.raises(StartError, match=r"Too many open files.*; next attempt in"):
        ray.ensure()


def test_a_start_is_given_up_when_the_service_ends(
    ray: LocalRay, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_ray, "ray_start", lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"])
    errors: list[StartError] = []

    def start() -> None:
        try:
            ray.ensure()
        except StartError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    deadline = time.monotonic() + 20
    while not (data_dir / "ray.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    root = pid_of(data_dir)
    begun = time.monotonic()
    ray.stop()
    thread.join(20)
    assert time.monotonic() - begun < 10
    assert [error.summary for error in errors] == ["Ray was not started: the service ends"]
    assert not psutil.pid_exists(root) or psutil.Process(root).status() == psutil.STATUS_ZOMBIE
    assert not (data_dir / "ray.json").exists()

"""The real command on an unreachable cluster: everything that a service does without running a job."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.postgres import Postgres, small_spec

from orchestrator.service.server import listening

EARSHOT = Path(sys.executable).parent / "earshot"
NO_CLUSTER = "http://127.0.0.1:1"


class Command:
    """`earshot serve`, which can be started several times."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object) -> httpx.Client:
        """Start the command and return a client once the service answers."""
        log = self.home / f"log-{len(self.processes)}.txt"
        process = self.spawn(log, *arguments)
        deadline = time.monotonic() + 60
        while not (found := re.search(r"serving http://[\d.]+:(\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=30)

    def spawn(self, log: Path, *arguments: object) -> subprocess.Popen[str]:
        command = [EARSHOT, "serve", "--port", "0", "--ray-address", NO_CLUSTER, "--data-dir", self.home / "data"]
        with log.open("w") as output:
            process = subprocess.Popen([*command, *arguments], stdout=output, stderr=output, text=True)
        self.processes.append(process)
        return process

    def refused(self, *arguments: object) -> str:
        """Return the last line of a command that ends with exit code 2."""
        log = self.home / "refused.txt"
        process = self.spawn(log, *arguments)
        assert process.wait(timeout=60) == 2, log.read_text()
        lines = [line for line in log.read_text().splitlines() if not line.startswith("{")]
        assert "Traceback" not in log.read_text()
        return lines[-1]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    yield command
    for process in command.processes:
        process.kill()
        process.wait(timeout=10)


def test_responses_do_not_wait_for_acknowledgements() -> None:
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def body() -> dict[str, object]:
    return json.loads(small_spec().model_dump_json(exclude={"cluster"}))


def test_a_queue_without_a_cluster_outlives_the_service(command: Command) -> None:
    client = command.start()
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    job = client.post("/v1/jobs", json=body()).json()
    assert job["state"] == "queued"
    assert "a service runs on this data directory" in command.refused()
    command.processes[0].kill()
    command.processes[0].wait(timeout=10)
    client = command.start()
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"
    metrics = client.get("/metrics").text
    assert 'earshot_loop_failures_total{what="cluster"}' in metrics
    cancelled = client.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert cancelled["state"] == "cancelled"
    command.processes[-1].send_signal(signal.SIGTERM)
    assert command.processes[-1].wait(timeout=30) == 0


def test_a_service_reachable_from_other_machines_requires_a_token(command: Command) -> None:
    assert "earshot token create" in command.refused("--host", "0.0.0.0")
    made = subprocess.run(
        [EARSHOT, "token", "create", "ann", "--role", "admin", "--json", "--data-dir", command.home / "data"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    client = command.start("--host", "0.0.0.0")
    assert client.get("/v1/jobs").status_code == 401
    headers = {"Authorization": f"Bearer {json.loads(made.stdout)['token']}"}
    assert client.get("/v1/jobs", headers=headers).status_code == 200


def test_settings_it_cannot_start_with_are_refused_with_the_reason(command: Command) -> None:
    taken = command.home / "file"
    taken.write_text("")
    for arguments, words in (
        (("--data-dir", taken), "cannot create the data directory"),
        (("--database-url", "mysql://x/y"), "not supported"),
        (("--ray-address", "auto"), "not a dashboard's URL"),
        (("--host", "999.1.1.1"), "cannot listen on"),
    ):
        assert words in command.refused(*arguments)


@pytest.mark.timeout(180)
def test_thirty_seconds_without_the_database(command: Command, postgres: Postgres) -> None:
    client = command.start("--database-url", postgres.new_database())
    job = client.post("/v1/jobs", json=body()).json()["id"]
    postgres.stop()
    try:
        gone = time.monotonic()
        while time.monotonic() < gone + 30:
            answer = client.get(f"/v1/jobs/{job}")
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            time.sleep(2)
    finally:
        postgres.start()
    deadline = time.monotonic() + 15
    while client.get(f"/v1/jobs/{job}").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    assert client.post("/v1/jobs", json=body()).status_code == 201
    assert command.processes[0].poll() is None

"""No secret is in a log, a view, a database or a backup: a service with secrets in its environment, whose users send
theirs in headers and in wrong places. `test_rehearsal.py` checks the same after whole jobs.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.postgres import postgres, small_spec

from deploy.generate import files
from orchestrator.cluster.ray_start import HIDDEN_FROM_JOBS
from orchestrator.service.store.database import sqlite_url

__all__ = ["postgres"]

EARSHOT = Path(sys.executable).parent / "earshot"
NO_CLUSTER = "http://127.0.0.1:1"


class Place:
    """Run a service on a data directory, with secrets in its environment."""

    def __init__(self, home: Path, database_url: str, password: str) -> None:
        self.home, self.data, self.log = home, home / "data", home / "service.log"
        self.password = password
        self.secrets = {
            "EARSHOT_DATABASE_URL": database_url,
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "WANDB_API_KEY": secrets.token_hex(20),
            "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(16),
        }
        self.environment = {**os.environ, **self.secrets, "RAY_AUTH_MODE": "token"}
        self.token, self.wrong = self.command("token", "create", "ada"), f"earshot_{secrets.token_urlsafe(32)}"
        self.hidden = {password, self.token, self.wrong, *self.secrets.values()} - {database_url}

    def command(self, *arguments: str) -> str:
        command = [EARSHOT, *arguments, "--data-dir", self.data]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=True, cwd=self.home
        )
        return done.stdout.strip()

    def start(self) -> subprocess.Popen[bytes]:
        command = [EARSHOT, "serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", self.data]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*command, "--ray-address", NO_CLUSTER], env=self.environment, stdout=log, stderr=log
            )

    def url(self, process: subprocess.Popen[bytes]) -> str:
        """Wait until it answers."""
        deadline = time.monotonic() + 60
        while not (found := re.search(r"serving http://[\d.]+:(\d+)", self.log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return f"http://127.0.0.1:{found[1]}"


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    password = secrets.token_hex(16)
    try:
        # It needs no password, and gets one.
        url = request.getfixturevalue("postgres").new_database().replace("earshot@", f"earshot:{password}@")
    except pytest.skip.Exception:
        url = sqlite_url(tmp_path / "earshot.db")
    return Place(tmp_path, url, password)


def requests_of(place: Place, url: str) -> list[httpx.Response]:
    """Do everything that could leak a secret."""
    spec: dict[str, Any] = json.loads(small_spec().model_dump_json(exclude={"cluster"}))
    remote = {**spec, "data": {"train": f"https://ada:{place.password}@example.org/train.jsonl"}}
    # Events and logs in parts: as streams they would not end.
    headers = {"Authorization": f"Bearer {place.token}", "Accept": "application/json"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        job = client.post("/v1/jobs", json=spec)
        assert job.status_code == 201, job.text
        path = f"/v1/jobs/{job.json()['id']}"
        answers = [job, *(client.get(each) for each in ("/v1/jobs", path, f"{path}/events", f"{path}/logs"))]
        answers += [client.get("/metrics"), client.get("/readyz"), client.get("/v1/cluster")]
        assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {place.wrong}"}).status_code == 401
        assert client.get("/v1/jobs", headers={"Authorization": f"Basic {place.token}"}).status_code == 401
        answers += [client.get("/v1/jobs", params={"access_token": place.token}), client.get(f"/{place.token}")]
        # A refused value is reported to its sender and stored nowhere.
        assert client.post("/v1/jobs", json=remote).status_code == 422
        assert client.post("/v1/jobs", json={**spec, "api_key": place.secrets["WANDB_API_KEY"]}).status_code == 422
    return answers


def test_a_service_shows_and_keeps_no_secret(place: Place) -> None:
    process = place.start()
    try:
        answers = requests_of(place, place.url(process))
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert '"status": 401' in place.log.read_text()
    place.command("backup", str(place.home / "saved"))
    listed = place.command("token", "list", "--json")
    kept = [path for path in place.home.rglob("*") if path.is_file()]
    assert {place.log, place.home / "saved" / "backup.json"} <= {*kept}
    for secret in place.hidden:
        assert not [answer.url.path for answer in answers if secret in answer.text and secret not in str(answer.url)]
        assert secret not in listed
        assert not [path for path in kept if secret.encode() in path.read_bytes()]


def test_no_secret_gets_into_what_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    names = (*HIDDEN_FROM_JOBS, "RAY_AUTH_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD")
    values = {name: secrets.token_hex(16) for name in names}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for path, text in files().items():
        assert not [value for value in values.values() if value in text], path

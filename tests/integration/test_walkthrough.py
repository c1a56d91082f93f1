"""The README's lines about the service, on a real Ray: submit, follow, scale from 1 to 3 and back, cancel another.

Three times on one job: with the README's lines of curl, with the command and with the client.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.conftest import EARSHOT
from integration.test_service import Service, job, service

from orchestrator.client import EarshotClient

__all__ = ["job", "service"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(job: dict[str, Any], tmp_path: Path) -> Path:
    """Return a job to use instead of examples/demo.yaml, whose model takes minutes to build."""
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job | {"steps": 100_000, "checkpoint": {"every": 0}}))
    return path


def serving(service: Service, job: str) -> int:
    return sum(worker["state"] == "serving" for worker in service.get(f"/jobs/{job}/workers")["items"])


def until_serving(service: Service, job: str, count: int) -> None:
    service.wait(lambda: serving(service, job) == count, seconds=400)
    done = len(service.run(job).metrics())
    service.wait(lambda: len(service.run(job).metrics()) > done + 1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
def test_with_curl_the_command_and_the_client(service: Service, file: Path) -> None:
    service.start()
    url = service.url
    readme = (ROOT / "README.md").read_text().splitlines()
    submit, follow, scale, cancel = (line for line in readme if line.startswith("curl "))

    def curl(line: str, job: str = "", options: str = "") -> subprocess.CompletedProcess[str]:
        line = (
            line.replace("http://127.0.0.1:8420", url)
            .replace("/ID", f"/{job}")
            .replace("examples/demo.yaml", str(file))
        )
        return subprocess.run(
            ["bash", "-c", f"{line} --silent --show-error {options}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    first = json.loads(curl(submit).stdout)["id"]
    until_serving(service, first, 1)
    for count in (3, 1):
        assert json.loads(curl(scale.replace('"count": 3', f'"count": {count}'), first).stdout)["count"] == count
        until_serving(service, first, count)
    followed = curl(follow, first, "--max-time 3")
    assert followed.returncode == 28, followed.stderr  # it runs until the job ends, or curl is stopped
    scaled = [json.loads(line[6:]) for line in followed.stdout.splitlines() if line.startswith("data: {")]
    assert [event["target"] for event in scaled if event["kind"] == "scaled"] == [1, 3, 1]
    other = json.loads(curl(submit).stdout)["id"]
    assert json.loads(curl(cancel, other).stdout)["state"] == "cancelled"

    def earshot(*words: str) -> dict[str, Any]:
        done = subprocess.run(
            [EARSHOT, *words, "--url", url, "--json"], capture_output=True, text=True, timeout=120, check=True
        )
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    for count in (3, 1):
        earshot("scale", first, str(count))
        until_serving(service, first, count)
    assert len(earshot("workers", first)["items"]) >= 1
    other = earshot("submit", str(file))["id"]
    assert earshot("cancel", other)["state"] == "cancelled"

    with EarshotClient(url) as client:
        for count in (3, 1):
            client.scale(first, count)
            until_serving(service, first, count)
        last = client.submit(yaml.safe_load(file.read_text())).id
        assert client.job(last).state == "queued"
        client.cancel(last)
        targets = [event.model_dump()["target"] for event in client.events(first).items if event.kind == "scaled"]
        assert targets == [1, 3, 1, 3, 1, 3, 1]
        client.cancel(first)
        assert client.wait(first, timeout=120).state == "cancelled"
    assert service.stop() == 0
    assert service.processes() == []

"""The curl commands of the README, run verbatim against a real service."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.service import Threaded

from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import Mailbox
from orchestrator.schemas.job_state import JobState

ROOT = Path(__file__).parents[4]


def curls(page: str) -> list[str]:
    return [line for line in (ROOT / page).read_text().splitlines() if line.startswith("curl ")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
@pytest.mark.parametrize("page", ["README.md", "docs/operate/api.md"])
def test_the_commands_submit_follow_scale_and_cancel(page, tmp_path):
    submit, follow, scale, cancel = curls(page)[:4]
    with Threaded(tmp_path, heartbeat_seconds=0.2) as threaded:

        def curl(line: str, job: str = "", *options: str) -> subprocess.CompletedProcess[str]:
            here = line.replace("http://127.0.0.1:8420", threaded.url).replace("/ID", f"/{job}")
            words = f"{here} --silent --show-error {' '.join(options)}"
            return subprocess.run(
                ["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
            )

        made = json.loads(curl(submit).stdout)
        assert (made["state"], made["spec"]["name"]) == ("queued", "demo")
        job = made["id"]
        run = threaded.do(lambda service: started(service, job))
        run.append_event("scaled", before=0, target=1, reason="the job starts")
        followed = curl(follow, job, "--max-time", "2")
        assert followed.returncode == 28, followed.stderr  # the stream lasts until the job ends; curl timed out
        assert "\nid: " in followed.stdout
        assert '"target":1' in followed.stdout.replace(" ", "")
        for count in (3, 1):
            response = json.loads(curl(scale.replace('"count": 3', f'"count": {count}'), job).stdout)
            assert (response["command"], response["count"]) == ("scale", count)
        assert [command.count for command in Mailbox(run).take()] == [3, 1]
        other = json.loads(curl(submit).stdout)["id"]
        assert json.loads(curl(cancel, other).stdout)["state"] == "cancelled"


async def started(service, job: str) -> RunDirectory:
    """Start a job as a driver would."""
    record = await service.store.transition(job, JobState.QUEUED, JobState.STARTING, attempt=1)
    run = RunDirectory.create(record.run_dir, "name: demo\n")
    run.append_event("state", state="running")
    await service.store.transition(job, JobState.STARTING, JobState.RUNNING)
    return run

"""Kill the service with SIGKILL repeatedly while three jobs run and five wait."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from support.fake_driver import FolderRunner
from support.postgres import small_spec

from orchestrator.schemas.job_state import ACTIVE, JobState
from orchestrator.service.store.store import Store

Result = TypeVar("Result")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[FolderRunner]:
    runner = FolderRunner(tmp_path / "cluster")
    yield runner
    runner.kill_all()


def start(database_url: str, tmp_path: Path) -> subprocess.Popen[str]:
    """Start the service; return once its store is open."""
    program = Path(__file__).with_name("service_program.py")
    with (tmp_path / "service.log").open("a") as log:
        service = subprocess.Popen(
            [sys.executable, program, database_url, tmp_path / "cluster", tmp_path / "runs", "3"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert service.stdout is not None
    assert service.stdout.readline() == "up\n", (tmp_path / "service.log").read_text()
    return service


def kill(service: subprocess.Popen[str]) -> None:
    service.kill()
    service.communicate(timeout=10)


def test_no_job_is_lost_or_started_twice(database_url: str, tmp_path: Path, runner: FolderRunner) -> None:
    def on_store(body: Callable[[Store], Awaitable[Result]]) -> Result:
        async def main() -> Result:
            async with Store(database_url, tmp_path / "runs") as store:
                return await body(store)

        return asyncio.run(main())

    async def submit(store: Store) -> list[str]:
        return [(await store.submit(small_spec(), owner="ann"))[0].id for _ in range(8)]

    async def states(store: Store) -> list[JobState]:
        return [(await store.get(job)).state for job in jobs]

    jobs = on_store(submit)
    moments = random.Random(7)
    for _ in range(4):
        # At some time between before the first driver starts and after all three are running.
        service = start(database_url, tmp_path)
        time.sleep(moments.uniform(0, 0.4))
        kill(service)
    service = start(database_url, tmp_path)
    deadline = time.monotonic() + 30
    while on_store(states).count(JobState.RUNNING) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kill(service)
    found = on_store(states)
    assert sum(state in ACTIVE for state in found) == 3
    assert found.count(JobState.QUEUED) == 5
    pids = {submission: runner.pid(submission) for submission in runner.started()}
    assert len(pids) == 3
    # One driver is killed and one ends while there is no service.
    killed, ended, undisturbed = (submission.rpartition("-")[0] for submission in pids)
    os.kill(pids[f"{killed}-1"], signal.SIGKILL)
    runner.finish(0, ended)
    service = start(database_url, tmp_path)
    deadline = time.monotonic() + 30
    while not {JobState.SUCCEEDED, JobState.RUNNING} <= set(on_store(states)) or f"{killed}-2" not in runner.started():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert runner.pid(f"{undisturbed}-1") == pids[f"{undisturbed}-1"]
    assert runner.alive(f"{undisturbed}-1")
    runner.finish()
    deadline = time.monotonic() + 60
    while set(on_store(states)) != {JobState.SUCCEEDED}:
        assert time.monotonic() < deadline, (tmp_path / "service.log").read_text()[-3000:]
        # The service is killed throughout.
        kill(service)
        service = start(database_url, tmp_path)
        time.sleep(moments.uniform(0.3, 1.5))
    kill(service)
    assert runner.started() == sorted([*(f"{job}-1" for job in jobs), f"{killed}-2"])

    async def restarts(store: Store) -> dict[str, int]:
        return {job: (await store.get(job)).restarts for job in jobs}

    assert on_store(restarts) == {job: int(job == killed) for job in jobs}

"""A request for more workers that fails undoes its own reservation of GPUs, and not that of another request."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from support.service import service

from orchestrator.service.api.routes import commands

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_two_requests_at_once_of_which_the_first_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send, calls, second_sent = commands._send, list[int](), threading.Event()

    def failing_first(*given: Any) -> str:
        calls.append(1)
        if len(calls) == 1:
            second_sent.wait(0.5)
            raise OSError(28, "No space left on device")
        sent = send(*given)
        second_sent.set()
        return sent

    monkeypatch.setattr(commands, "_send", failing_first)
    async with service(tmp_path) as made:
        job, _ = await made.running(rollout={"workers": 1, "gpus": 1.0})
        gpus = job.gpus
        client, path = made.client(), f"/v1/jobs/{job.id}/rollout-workers"
        answers = await asyncio.gather(*(client.patch(path, json={"count": 8}) for _ in range(2)))
        assert sorted(answer.status_code for answer in answers) == [202, 409]
        assert (await made.store.get(job.id)).gpus == gpus + 7


async def test_a_command_that_may_still_be_written_keeps_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, answers = commands._send, threading.Event()

    def hanging(*given: Any) -> str:
        assert answers.wait(30)
        return send(*given)

    monkeypatch.setattr(commands, "_send", hanging)
    async with service(tmp_path, file_seconds=0.2) as made:
        job, run = await made.running(rollout={"workers": 1, "gpus": 1.0})
        try:
            answer = await made.client().patch(f"/v1/jobs/{job.id}/rollout-workers", json={"count": 8})
            assert (answer.status_code, answer.json()["code"]) == (503, "files_unavailable")
            assert (await made.store.get(job.id)).gpus == job.gpus + 7
        finally:
            answers.set()
        async with asyncio.timeout(10):
            while not (run.path / "commands.jsonl").exists():
                await asyncio.sleep(0.01)

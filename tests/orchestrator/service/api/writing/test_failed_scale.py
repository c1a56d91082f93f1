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

"""A run whose files hang, as on a mount that does not answer: other requests are answered meanwhile."""

import asyncio
import io
import json
import os
import threading
from contextlib import asynccontextmanager

import pytest
from support.service import check_problem, listening, sample

from orchestrator.schemas.job_state import JobState

pytestmark = pytest.mark.anyio

PARTS = ("workers", "metrics", "samples", "checkpoints", "events", "logs")
ACCEPT = {"Accept": "application/json"}


class Mount:
    """Calls of the file system below one folder that wait until `answer`."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.hangs, self.answered, self.waiting = str(folder), False, threading.Event(), 0
        for owner, name in ((os, "stat"), (os, "open"), (io, "open"), (os, "scandir"), (os, "listdir")):
            monkeypatch.setattr(owner, name, self.slow(getattr(owner, name)))

    def slow(self, function):
        def call(path=".", *args, **more):
            if self.hangs and not isinstance(path, int) and str(path).startswith(self.folder):
                assert threading.current_thread() is not threading.main_thread()
                self.waiting += 1
                self.answered.wait(30)
            return function(path, *args, **more)

        return call

    def answer(self):
        self.hangs = False
        self.answered.set()


@asynccontextmanager
async def two_jobs(tmp_path, monkeypatch):
    """Run a service with two jobs. The files of the first one can be made to hang."""
    async with listening(tmp_path, file_seconds=0.3, heartbeat_seconds=0.1) as (made, client), asyncio.timeout(60):
        jobs = [await made.running() for _ in range(2)]
        for _, run in jobs:
            run.append_samples([sample(str(made.clip()))])
            run.append_metrics({"step": 3, "reward/mean": 0.5})
        # As lists have shown them before.
        await client.get("/v1/jobs")
        mount = Mount(monkeypatch, jobs[0][0].run_dir)
        try:
            yield made, client, jobs, mount
        finally:
            mount.answer()


async def test_other_requests_are_answered_while_the_files_of_a_run_hang(tmp_path, monkeypatch):
    async with two_jobs(tmp_path, monkeypatch) as (_, client, ((bad, _), (good, _)), mount):
        clips = [
            (await client.get(f"/v1/jobs/{job.id}/samples")).json()["items"][0]["audio_url"] for job in (bad, good)
        ]
        mount.hangs = True
        urls = [*(f"/v1/jobs/{bad.id}/{part}" for part in PARTS), clips[0]]
        hanging = [asyncio.create_task(client.get(url, headers=ACCEPT)) for url in urls * 8]
        await asyncio.sleep(0.05)
        for part in PARTS:
            assert (await client.get(f"/v1/jobs/{good.id}/{part}", headers=ACCEPT)).status_code == 200, part
        for path in (clips[1], "/healthz", "/readyz", "/metrics", "/v1/cluster", f"/v1/jobs/{good.id}"):
            assert (await client.get(path)).status_code == 200, path
        for response in await asyncio.gather(*hanging):
            found = check_problem(response, 503)
            assert found["code"] == "files_unavailable"
            assert str(tmp_path) not in response.text
            assert response.headers["retry-after"] == "5"
        assert check_problem(await client.post(f"/v1/jobs/{bad.id}/pause"), 503)["code"] == "files_unavailable"
        # What is known without the files of the run is shown, and marked.
        for _ in range(2):
            listed = (await client.get("/v1/jobs")).json()["items"]
            assert [job["progress"]["current"] for job in listed] == [job["id"] == good.id for job in listed]
            assert [job["progress"]["step"] for job in listed] == [3, 3]
        one = (await client.get(f"/v1/jobs/{bad.id}")).json()
        assert (one["state"], one["progress"]["step"], one["progress"]["current"]) == ("running", 3, False)
        assert (await client.post(f"/v1/jobs/{bad.id}/cancel")).status_code == 200
        assert mount.waiting <= 12, "threads"
        mount.answer()
        while (await client.get(f"/v1/jobs/{bad.id}/metrics")).status_code == 503:
            await asyncio.sleep(0.01)
        while not (await client.get(f"/v1/jobs/{bad.id}")).json()["progress"]["current"]:
            await asyncio.sleep(0.01)


async def test_streams_of_other_jobs_go_on_while_the_files_of_a_run_hang(tmp_path, monkeypatch):
    async with two_jobs(tmp_path, monkeypatch) as (made, client, jobs, mount):
        (bad, bad_run), (good, good_run) = jobs
        got = {bad.id: [], good.id: []}

        async def follow(job):
            async with client.stream("GET", f"/v1/jobs/{job.id}/events", params={"tail": 0}) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: {") and "number" in line:
                        got[job.id].append(json.loads(line[6:])["number"])
                    if line == "event: end":
                        return

        streams = [asyncio.create_task(follow(job)) for job, _ in jobs]
        while made.app.state.context.tails.streams < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        mount.hangs = True
        good_run.append_event("test", number=1)
        while got[good.id] != [1]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        mount.answer()
        bad_run.append_event("test", number=7)
        while got[bad.id] != [7]:
            await asyncio.sleep(0.01)
        for job in (bad, good):
            await made.store.transition(job.id, JobState.RUNNING, JobState.FAILED)
        await asyncio.gather(*streams)
        assert got == {bad.id: [7], good.id: [1]}

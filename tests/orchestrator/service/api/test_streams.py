"""Events and logs over a real socket: interrupted streams that resume, and hundreds of streams at once."""

import asyncio
import json
import random

import pytest
from support.service import check_problem, listening, service

from orchestrator.run.files import DRIVER_LOG
from orchestrator.schemas.job_state import JobState

pytestmark = pytest.mark.anyio


def parse(event):
    fields = dict(line.split(": ", 1) for line in event.split("\n") if line and not line.startswith(":"))
    return (int(fields["id"]), fields["data"], fields.get("event")) if fields else None


async def read_events(response):
    rest = ""
    async for text in response.aiter_text():
        *events, rest = (rest + text).split("\n\n")
        for event in events:
            if found := parse(event):
                yield found


async def test_interrupted_connections_lose_and_repeat_nothing(tmp_path):
    async with listening(tmp_path) as (made, client):
        job, run = await made.running()
        before = len(run.events())

        async def writer():
            for i in range(200):
                run.append_event("test", number=i, text="\u2028é" * 3)
                await asyncio.sleep(0.01)
            await made.store.transition(job.id, JobState.RUNNING, JobState.SUCCEEDED)

        writing, chance = asyncio.create_task(writer()), random.Random(1)
        got, last, breaks, ended = [], None, 0, False
        async with asyncio.timeout(60):
            while not ended:
                headers = {} if last is None else {"Last-Event-ID": str(last)}
                cut = chance.randint(1, 25)
                async with client.stream("GET", f"/v1/jobs/{job.id}/events", headers=headers) as response:
                    assert response.headers["content-type"].startswith("text/event-stream")
                    async for identifier, data, kind in read_events(response):
                        last = identifier
                        ended = kind == "end"
                        if ended:
                            break
                        got.append(json.loads(data))
                        cut -= 1
                        if not cut:
                            break
                breaks += 1
        await writing
        assert got == run.events()
        assert [event["number"] for event in got[before:]] == list(range(200))
        assert breaks > 5


async def test_hundreds_of_streams_are_served_and_released(tmp_path):
    async with listening(tmp_path, heartbeat_seconds=0.5) as (made, client):
        job, run = await made.running()
        tails, ready = made.app.state.context.tails, asyncio.Semaphore(0)

        async def follow():
            found = []
            async with client.stream("GET", f"/v1/jobs/{job.id}/events", params={"tail": 0}) as response:
                ready.release()
                async for _, data, kind in read_events(response):
                    if kind == "end":
                        return found
                    found.append(json.loads(data)["number"])
            return None

        streams = [asyncio.create_task(follow()) for _ in range(300)]
        async with asyncio.timeout(60):
            for _ in streams:
                await ready.acquire()
            assert tails.streams == 300
            for stream in streams[:100]:
                stream.cancel()
            for i in range(5):
                run.append_event("test", number=i)
            await made.store.transition(job.id, JobState.RUNNING, JobState.FAILED)
            assert await asyncio.gather(*streams[100:]) == [[0, 1, 2, 3, 4]] * 200
            while tails.streams:
                await asyncio.sleep(0.1)


async def test_events_and_logs_as_pages_of_json(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        job, run = await made.running()
        (run.path / DRIVER_LOG).write_bytes(b"one\n\x1b[1mtwo\x1b[0m\nhalf")
        accept = {"Accept": "application/json"}
        url = f"/v1/jobs/{job.id}"
        page = (await client.get(f"{url}/events", headers=accept, params={"limit": 3})).json()
        rest = (await client.get(f"{url}/events", headers=accept, params={"cursor": page["next_cursor"]})).json()
        found = [{k: v for k, v in item.items() if k != "cursor"} for item in page["items"] + rest["items"]]
        assert found == run.events()
        assert rest["next_cursor"] is None
        lines = (await client.get(f"{url}/logs", headers=accept, params={"tail": 1})).json()
        assert [line["text"] for line in lines["items"]] == ["two"]
        for value in ("3", "99999"):
            check_problem(await client.get(f"{url}/events", headers={**accept, "Last-Event-ID": value}), 400)
        for value in ("-1", "x", "1" * 30, "1\u00b2"):
            wrong = [(b"last-event-id", value.encode()), (b"accept", b"application/json")]
            check_problem(await client.get(f"{url}/events", headers=wrong), 400)


async def test_a_stream_of_a_log(tmp_path):
    async with service(tmp_path) as made:
        job, run = await made.running()
        (run.path / DRIVER_LOG).write_bytes(b"one\ntwo\n")
        await made.store.transition(job.id, JobState.RUNNING, JobState.FAILED)
        async with made.client().stream("GET", f"/v1/jobs/{job.id}/logs") as response:
            found = [event async for event in read_events(response)]
        assert found == [(4, "one", None), (8, "two", None), (8, "{}", "end")]


async def test_the_number_of_streams_is_limited(tmp_path):
    async with service(tmp_path, max_streams=0) as made:
        job, _ = await made.running()
        check_problem(await made.client().get(f"/v1/jobs/{job.id}/events"), 503)

"""Streams of a growing file: no gaps and no repetitions across reconnects; one poll for all of them."""

import asyncio
import json
import random

import pytest

from orchestrator.run.directory import RunDirectory
from orchestrator.run.lines import PlaceError
from orchestrator.service.telemetry.encode import json_line, log_text
from orchestrator.service.telemetry.tail import HEARTBEAT, Tails

pytestmark = pytest.mark.anyio


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "name: test\n")


class Job:
    over = False
    asked = 0

    async def is_over(self):
        self.asked += 1
        return self.over


def parse(blob):
    """Return id and data of each event in a piece of a stream."""
    for event in blob.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
        if fields:
            yield int(fields["id"]), fields["data"], fields.get("event")


async def collect(tails, path, job, place=0, most=None):
    found = []
    async for blob in tails.follow(path, place, json_line, job.is_over):
        found += parse(blob)
        if most is not None and len(found) >= most:
            break
    return found


def write(run, i):
    run.append_event("test", number=i, text="line\u2028separator")


async def test_lines_come_as_they_are_written_and_the_stream_ends_with_its_job(run):
    tails, job = Tails(poll_seconds=0.01), Job()
    following = asyncio.create_task(collect(tails, run.path / "events.jsonl", job))
    for i in range(20):
        write(run, i)
        await asyncio.sleep(0.005)
    job.over = True
    found = await asyncio.wait_for(following, 5)
    assert [json.loads(data)["number"] for _, data, kind in found if kind is None] == list(range(20))
    assert found[-1] == ((run.path / "events.jsonl").stat().st_size, "{}", "end")
    assert tails.streams == 0


async def test_a_stream_continues_without_gap_or_repetition_after_a_reconnect(run):
    tails, job, chance = Tails(poll_seconds=0.005), Job(), random.Random(0)
    path = run.path / "events.jsonl"

    async def writer():
        for i in range(300):
            write(run, i)
            if i % 3 == 0:
                await asyncio.sleep(0.002)
        job.over = True

    writing = asyncio.create_task(writer())
    numbers, place, breaks = [], 0, 0
    async with asyncio.timeout(20):
        while True:
            cut, ended = chance.randint(1, 9), False
            async for blob in tails.follow(path, place, json_line, job.is_over):
                for identifier, data, kind in parse(blob):
                    ended = kind == "end"
                    if not ended:
                        numbers.append(json.loads(data)["number"])
                    place, cut = identifier, cut - 1
                    if cut == 0:
                        break
                if cut <= 0 or ended:
                    break
            breaks += 1
            if ended:
                break
    await writing
    assert numbers == list(range(300))
    assert breaks > 20


async def test_many_streams_of_one_file_read_it_once(run, monkeypatch):
    from orchestrator.service.telemetry import tail as module

    reads = []
    monkeypatch.setattr(
        module, "lines_after", lambda *args, read=module.lines_after, **more: (reads.append(1), read(*args, **more))[1]
    )
    tails, job = Tails(poll_seconds=0.01), Job()
    following = [asyncio.create_task(collect(tails, run.path / "events.jsonl", job)) for _ in range(500)]
    await asyncio.sleep(0.2)
    before = len(reads)
    for i in range(3):
        write(run, i)
        await asyncio.sleep(0.1)
    assert len(reads) - before < 30
    job.over = True
    async with asyncio.timeout(20):
        found = await asyncio.gather(*following)
    assert all(len(one) == 4 for one in found)
    assert job.asked < 510


async def test_a_stream_without_news_has_heartbeats(run):
    blobs = []
    async with asyncio.timeout(5):
        async for blob in Tails(heartbeat_seconds=0.01).follow(run.path / "events.jsonl", 0, json_line, Job().is_over):
            blobs.append(blob)
            if len(blobs) == 4:
                break
    assert blobs == [HEARTBEAT] * 4


async def test_a_place_within_a_line_is_refused(run):
    write(run, 0)
    with pytest.raises(PlaceError):
        await collect(Tails(), run.path / "events.jsonl", Job(), place=3)


async def test_no_stream_lasts_forever(run):
    tails = Tails(heartbeat_seconds=0.01, longest_seconds=0.05)
    async with asyncio.timeout(5):
        assert await collect(tails, run.path / "events.jsonl", Job()) == []


def test_control_characters_are_removed_from_a_log():
    assert log_text(b"\x1b[31mred\x1b[0m\x07 \xff\tend") == "red \ufffd\tend"
    assert log_text(b" 10%\r 50%\r100%\r") == "100%"

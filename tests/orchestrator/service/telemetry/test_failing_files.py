"""Streams of files that fail or hang for a while: nothing is lost, and nobody else waits."""

import asyncio
import errno
import json
import threading

import pytest

from orchestrator.run.directory import RunDirectory
from orchestrator.service.telemetry import tail as module
from orchestrator.service.telemetry.encode import json_line
from orchestrator.service.telemetry.file_threads import FilesUnavailableError, FileThreads
from orchestrator.service.telemetry.sweep import Sweep
from orchestrator.service.telemetry.tail import Tails

pytestmark = pytest.mark.anyio


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "name: test\n")


@pytest.fixture
def other(tmp_path):
    return RunDirectory.create(tmp_path / "other", "name: test\n")


class Job:
    over = False

    async def is_over(self):
        return self.over


async def collect(tails, run, job, place=0):
    """Return the numbers of the events of a stream, and whether it ended with its job."""
    numbers, ended = [], False
    async for blob in tails.follow(run.path / "events.jsonl", place, json_line, job.is_over):
        for event in blob.decode().split("\n\n"):
            data = event.partition("data: ")[2]
            if event.startswith("event: end"):
                ended = True
            elif data:
                numbers.append(json.loads(data)["number"])
    return numbers, ended


def write(run, *numbers):
    for number in numbers:
        run.append_event("test", number=number)


class Faults:
    """Makes reads of the files of one run fail."""

    def __init__(self, monkeypatch, run, code):
        self.folder, self.code, self.left, self.met = run.path, code, 0, 0
        for name in ("lines_after", "_stamp", "check_before"):
            monkeypatch.setattr(module, name, self.faulty(getattr(module, name)))

    def faulty(self, function):
        def call(path, *args, **more):
            if path.parent == self.folder and self.left:
                self.left -= 1
                self.met += 1
                raise OSError(self.code, "failed")
            return function(path, *args, **more)

        return call


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
async def test_a_stream_goes_on_at_its_place_after_files_failed(run, other, monkeypatch, code):
    faults = Faults(monkeypatch, run, code)
    tails, job = Tails(poll_seconds=0.005, heartbeat_seconds=0.01), Job()
    following = [asyncio.create_task(collect(tails, one, job)) for one in (run, run, other)]
    for i in range(30):
        faults.left = 3 if i % 10 == 5 else faults.left
        write(run, i)
        write(other, i)
        await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while faults.left:
            await asyncio.sleep(0.01)
        job.over = True
        assert await asyncio.gather(*following) == [(list(range(30)), True)] * 3
    assert faults.met == 9


async def test_a_stream_of_a_file_that_stays_unreadable_ends_in_order(run, other, monkeypatch):
    faults = Faults(monkeypatch, run, errno.EIO)
    tails, job = Tails(poll_seconds=0.005, heartbeat_seconds=0.01, failing_seconds=0.1), Job()
    write(run, 0)
    following = asyncio.create_task(collect(tails, run, job))
    healthy = asyncio.create_task(collect(tails, other, job))
    async with asyncio.timeout(10):
        while tails.streams != 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        faults.left = 10**9
        write(run, 1)
        # Without an event named end: the client reconnects, and is told what is wrong.
        assert await following == ([0], False)
        write(other, 0, 1)
        await asyncio.sleep(0.05)
        job.over = True
        assert await healthy == ([0, 1], True)


async def test_a_file_replaced_by_another_one_ends_its_stream_in_order(run):
    tails, job = Tails(poll_seconds=0.005, heartbeat_seconds=0.05), Job()
    write(run, *range(5))
    path = run.path / "events.jsonl"
    following = asyncio.create_task(collect(tails, run, job))
    await asyncio.sleep(0.1)
    # Other lines of the same lengths: every place is still the beginning of a line.
    part = path.with_suffix(".part")
    part.write_bytes(path.read_bytes().replace(b'"number": 4', b'"number": 9'))
    part.replace(path)
    write(run, 6)
    async with asyncio.timeout(10):
        assert await following == ([0, 1, 2, 3, 4], False)


async def test_a_file_replaced_by_its_copy_continues(run):
    tails, job = Tails(poll_seconds=0.005, heartbeat_seconds=0.05), Job()
    write(run, *range(5))
    path = run.path / "events.jsonl"
    following = asyncio.create_task(collect(tails, run, job))
    await asyncio.sleep(0.1)
    part = path.with_suffix(".part")
    part.write_bytes(path.read_bytes())
    part.replace(path)
    write(run, 5)
    await asyncio.sleep(0.1)
    job.over = True
    async with asyncio.timeout(10):
        assert await following == ([0, 1, 2, 3, 4, 5], True)


async def test_trouble_with_one_job_does_not_end_polling_for_all(run, other):
    class Broken(Job):
        asked = 0

        async def is_over(self):
            self.asked += 1
            if self.asked > 1:
                raise RuntimeError("unexpected")
            return False

    tails, broken, job = Tails(poll_seconds=0.005, heartbeat_seconds=0.05), Broken(), Job()
    first = asyncio.create_task(collect(tails, run, broken))
    second = asyncio.create_task(collect(tails, other, job))
    async with asyncio.timeout(10):
        while broken.asked < 2:
            await asyncio.sleep(0.02)
        write(other, 0)
        await asyncio.sleep(0.1)
        job.over = True
        assert await second == ([0], True)
    assert not first.done()
    first.cancel()


async def test_a_file_that_hangs_delays_no_other_stream(run, other, monkeypatch):
    answered, stamp = threading.Event(), module._stamp
    hanging = {run.path / "events.jsonl"}

    def slow(path):
        if path in hanging:
            answered.wait(20)
        return stamp(path)

    monkeypatch.setattr(module, "_stamp", slow)
    tails, job = Tails(poll_seconds=0.005, heartbeat_seconds=60, patience=0.05), Job()
    following = [asyncio.create_task(collect(tails, one, job)) for one in (run, other)]
    async with asyncio.timeout(10):
        await asyncio.sleep(0.2)
        write(run, 0)
        write(other, 0)
        await asyncio.sleep(0.1)
        job.over = True
        assert await following[1] == ([0], True)
        answered.set()
        assert await following[0] == ([0], True)


async def test_reads_of_one_key_occupy_few_threads_and_fail_at_their_deadline(tmp_path):
    answered, threads = threading.Event(), FileThreads(seconds=0.2, threads=8, per_key=2)
    started = []

    def hang():
        started.append(1)
        answered.wait(20)

    async with asyncio.timeout(10):
        asked = [asyncio.create_task(threads.run(tmp_path / "a", hang)) for _ in range(50)]
        assert [await threads.run(tmp_path / "b", int, "7") for _ in range(20)] == [7] * 20
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(error) for error in found} == {FilesUnavailableError}
        assert len(started) == 2
        # While one read is late, the next ones are refused at once.
        with pytest.raises(FilesUnavailableError, match="do not answer"):
            await threads.run(tmp_path / "a", int, "7")
        answered.set()
        while True:
            try:
                assert await threads.run(tmp_path / "a", int, "7") == 7
                break
            except FilesUnavailableError:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(("failures", "works"), [(2, True), (3, False)])
async def test_a_stale_handle_is_opened_again(tmp_path, failures, works):
    left = [failures]

    def read():
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ESTALE, "Stale file handle")
        return "read"

    if works:
        assert await FileThreads().run(tmp_path, read) == "read"
    else:
        with pytest.raises(FilesUnavailableError, match=r"cannot be read now \(Stale file handle\)"):
            await FileThreads().run(tmp_path, read)


async def test_nothing_is_kept_of_a_read_whose_caller_left(tmp_path):
    files, begun, go_on = FileThreads(), threading.Event(), threading.Event()

    def read():
        begun.set()
        go_on.wait(10)

    caller = asyncio.create_task(files.run(tmp_path, read))
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    await asyncio.wait([caller])
    assert tmp_path in files._slots
    go_on.set()
    async with asyncio.timeout(10):
        while files._slots:
            await asyncio.sleep(0.01)


async def test_a_file_that_is_opened_after_its_caller_left_is_closed(tmp_path):
    files, go_on = FileThreads(seconds=0.05), threading.Event()
    (tmp_path / "clip").touch()
    opened = []

    def open_late():
        go_on.wait(10)
        opened.append((tmp_path / "clip").open("rb"))
        return opened[0]

    with pytest.raises(FilesUnavailableError):
        await files.run(tmp_path, open_late)
    go_on.set()
    async with asyncio.timeout(10):
        while not opened or not opened[0].closed:
            await asyncio.sleep(0.01)


async def test_a_sweep_leaves_out_what_hangs_and_finds_it_again(tmp_path):
    answered, asked = threading.Event(), []

    def read(key):
        asked.append(key)
        if key in {2, 5}:
            answered.wait(20)
        if key == 3:
            raise OSError(errno.EIO, "failed")
        return 10 * key

    sweep = Sweep(read, threads=3, patience=0.05)
    async with asyncio.timeout(10):
        assert await sweep.of(range(5)) == {0: 0, 1: 10, 4: 40}
        assert await sweep.of(range(8)) == {0: 0, 1: 10, 4: 40, 6: 60, 7: 70}
        for _ in range(20):
            assert await sweep.of(range(8)) == {0: 0, 1: 10, 4: 40, 6: 60, 7: 70}
        assert asked.count(2) == asked.count(5) == 1
        answered.set()
        while await sweep.of(range(8)) != {0: 0, 1: 10, 2: 20, 4: 40, 5: 50, 6: 60, 7: 70}:
            await asyncio.sleep(0.01)


async def test_a_sweep_without_a_free_thread_returns_at_once(tmp_path):
    answered = threading.Event()

    def read(key):
        if key < 2:
            answered.wait(20)
        return key

    sweep = Sweep(read, threads=2, patience=0.02)
    async with asyncio.timeout(10):
        assert await sweep.of([0, 1]) == {}
        assert await sweep.of([5, 6]) == {}
        answered.set()
        while await sweep.of([0, 5]) != {0: 0, 5: 5}:
            await asyncio.sleep(0.01)

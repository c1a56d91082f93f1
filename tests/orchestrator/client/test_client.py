"""The clients against a real service: typed responses, errors, retries, waiting, streams that resume."""

import asyncio
import threading
import time

import httpx
import pytest
from support.service import SPEC, Threaded, sample, service

from audio_qa.errors import InputError
from orchestrator.client import (
    ApiError,
    AsyncEarshotClient,
    ClientError,
    EarshotClient,
    UnreachableError,
    UnsendableError,
    WaitTimeoutError,
)
from orchestrator.client.sse import EventDecoder
from orchestrator.job.spec import JobSpec
from orchestrator.schemas.job_state import JobState


@pytest.fixture(scope="module")
def threaded(tmp_path_factory):
    with Threaded(tmp_path_factory.mktemp("client"), heartbeat_seconds=0.2) as running:
        yield running


@pytest.fixture
def client(threaded):
    with EarshotClient(threaded.url, retry_seconds=5) as made:
        yield made


def test_a_job_from_submission_to_its_end(threaded, client):
    job = client.submit(JobSpec.model_validate(SPEC), priority=2, max_restarts=1)
    assert (job.state, job.priority, job.max_restarts, job.created_at.tzinfo is not None) == ("queued", 2, 1, True)
    assert client.job(job.id).history[0].to_state is JobState.QUEUED
    assert job.id in [one.id for one in client.jobs(state=[JobState.QUEUED]).items]
    assert job.id in [one.id for one in client.all_jobs()]
    with pytest.raises(WaitTimeoutError):
        client.wait(job.id, timeout=0.1, poll_seconds=0.05)
    cancelling = threading.Timer(0.3, client.cancel, [job.id])
    cancelling.start()
    assert client.wait(job.id, timeout=10, poll_seconds=0.05).state is JobState.CANCELLED
    cancelling.join()


def test_telemetry_of_and_commands_to_a_running_job(threaded, client):
    job, run = threaded.do(lambda made: made.running())
    run.append_metrics({"step": 1, "reward/mean": 0.5})
    clip = threaded.made.clip()
    run.append_samples([sample(str(clip))])
    (run.path / "driver.log").write_text("one\ntwo\n")
    assert client.scale(job.id, 3).count == 3
    assert [client.pause(job.id).command, client.resume(job.id).command, client.checkpoint(job.id).command] == [
        "pause", "resume", "checkpoint",
    ]  # fmt: skip
    assert client.metrics(job.id, names=["reward/mean"]).items == [{"step": 1, "reward/mean": 0.5}]
    assert [worker.name for worker in client.workers(job.id).items] == ["rollout-0", "rollout-1"]
    found = client.samples(job.id).items[0]
    assert (found.text, found.rewards) == ("a", {"accuracy": 1.0})
    assert client.audio(job.id, found.id) == clip.read_bytes()
    assert client.checkpoints(job.id) == []
    assert [line.text for line in client.logs(job.id, tail=1).items] == ["two"]
    assert client.events(job.id, limit=2).next_cursor is not None
    assert client.cluster().gpus == 2


def test_a_refused_request_raises_an_error_with_the_reason(client):
    with pytest.raises(ApiError, match="did you mean 'steps'") as refused:
        client.submit({**SPEC, "stepz": 3})
    assert (refused.value.status, refused.value.code) == (422, "invalid_job")
    for job_id in ("none", "../../healthz", "", "a/b"):
        with pytest.raises(ApiError) as refused:
            client.job(job_id)
        assert refused.value.status in (404, 422)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), {1, 2}, "\ud800", b"1"])
def test_a_job_that_json_cannot_express_is_refused_before_it_is_sent(client, value):
    before = client.jobs().items
    with pytest.raises(UnsendableError, match="the job cannot be sent as JSON") as refused:
        client.submit({**SPEC, "seed": value})
    assert (isinstance(refused.value, InputError), "\n" in str(refused.value)) == (True, False)
    assert client.jobs().items == before


class Interrupting(httpx.HTTPTransport):
    """A connection that breaks in every stream after its third chunk."""

    def __init__(self):
        super().__init__()
        self.resumed_after = []

    def handle_request(self, request):
        response = super().handle_request(request)
        if response.headers["content-type"].startswith("text/event-stream"):
            self.resumed_after.append(request.headers.get("last-event-id"))
            response.stream = InterruptedStream(response.stream)
        return response


class InterruptedStream(httpx.SyncByteStream):
    def __init__(self, stream):
        self._stream = stream

    def __iter__(self):
        for i, chunk in enumerate(self._stream):
            yield chunk
            if i == 2:
                raise httpx.ReadError("interrupted")

    def close(self):
        self._stream.close()


def test_a_stream_continues_after_its_last_event_when_the_connection_breaks(threaded):
    job, run = threaded.do(lambda made: made.running())
    transport = Interrupting()
    client = EarshotClient(threaded.url, retry_seconds=5, transport=transport)

    def write():
        for i in range(30):
            run.append_event("test", number=i, id="its own", text="\u2028")
            time.sleep(0.02)
        threaded.do(lambda made: made.store.transition(job.id, JobState.RUNNING, JobState.SUCCEEDED))

    writing = threading.Thread(target=write)
    writing.start()
    events = [event.model_dump() for event in client.stream_events(job.id)]
    writing.join()
    assert [{k: v for k, v in event.items() if k != "cursor"} for event in events] == run.events()
    assert len(transport.resumed_after) > 1
    assert None not in transport.resumed_after[1:]
    assert [event.model_dump() for event in client.stream_events(job.id, after=events[-3]["cursor"])] == events[-2:]
    assert [event.model_dump() for event in client.stream_events(job.id, tail=1)] == events[-1:]


def test_requests_that_are_safe_to_repeat_are_retried_and_no_job_is_created_twice():
    asked = []

    def answer(request):
        asked.append((request.method, request.url.path, request.headers.get("idempotency-key")))
        if len(asked) < 3:
            raise httpx.ReadError("gone")
        if len(asked) == 3:
            return httpx.Response(503, headers={"retry-after": "0"}, json={"detail": "no database"})
        return httpx.Response(200, json={"status": "ok"})

    client = EarshotClient("http://x", transport=httpx.MockTransport(answer), retry_seconds=10)
    with pytest.raises(ValueError):  # the response does not describe a job
        client.submit(SPEC)
    assert len(asked) == 4
    assert len({key for _, _, key in asked}) == 1


CHANGES = {
    "submit": [SPEC],
    "validate": [SPEC],
    "retry": ["x"],
    "delete": ["x"],
    "cancel": ["x"],
    "pause": ["x"],
    "resume": ["x"],
    "checkpoint": ["x"],
    "scale": ["x", 2],
    "set_priority": ["x", 5],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_may_have_been_made_is_repeated_with_the_same_key(name):
    asked = []

    def answer(request):
        asked.append((request.method, request.headers.get("idempotency-key")))
        if len(asked) == 2:
            return httpx.Response(502)
        raise httpx.ReadError("gone")

    client = EarshotClient("http://x", transport=httpx.MockTransport(answer), retry_seconds=1)
    with pytest.raises(UnreachableError):
        getattr(client, name)(*CHANGES[name])
    assert len(asked) > 2
    assert len(set(asked)) == 1
    assert asked[0][1]
    before = asked[0]
    with pytest.raises(UnreachableError):
        getattr(client, name)(*CHANGES[name])
    assert asked[-1][1] != before[1]


def test_no_service_at_the_address(monkeypatch):
    with pytest.raises(UnreachableError, match="no service answers at"):
        EarshotClient("http://127.0.0.1:9", retry_seconds=0.3).jobs()
    for url in ("ftp://x", "nonsense", "http://"):
        with pytest.raises(ClientError):
            EarshotClient(url)
    monkeypatch.setenv("EARSHOT_TOKEN", "a\nb")
    with pytest.raises(ClientError):
        EarshotClient("http://x")


def test_a_stream_is_decoded_however_its_bytes_are_split():
    text = ': still here\n\nid: 3\ndata: {"a": "\u2028é"}\n\nevent: end\nid: 9\ndata: {}\n\nid: 10\ndata: torn'.encode()
    whole = EventDecoder().feed(text)
    assert [(sent.id, sent.data, sent.name) for sent in whole] == [
        ("3", '{"a": "\u2028é"}', "message"), ("9", "{}", "end"),
    ]  # fmt: skip
    for size in (1, 2, 3, 7):
        decoder = EventDecoder()
        assert [s for i in range(0, len(text), size) for s in decoder.feed(text[i : i + size])] == whole


@pytest.mark.anyio
async def test_the_asynchronous_client(tmp_path):
    async with service(tmp_path) as made:
        transport = httpx.ASGITransport(made.app)
        async with AsyncEarshotClient("http://127.0.0.1:8000", transport=transport) as client:
            job, run = await made.running()
            assert (await client.job(job.id)).state is JobState.RUNNING
            assert [one.id async for one in client.all_jobs()] == [job.id]
            assert (await client.scale(job.id, 2)).command == "scale"
            run.append_metrics({"step": 1, "reward/mean": 0.5})
            assert (await client.metrics(job.id)).last_step == 1
            with pytest.raises(ApiError):
                await client.job("none")
            waiting = asyncio.create_task(client.wait(job.id, timeout=10, poll_seconds=0.05))
            await made.store.transition(job.id, JobState.RUNNING, JobState.SUCCEEDED)
            assert (await waiting).state is JobState.SUCCEEDED
            kinds = [event.kind async for event in client.stream_events(job.id)]
            assert kinds == [event["kind"] for event in run.events()]
            assert [line async for line in client.stream_logs(job.id)] == []
            assert (await client.submit(SPEC)).name == "small"

"""Limits of one connection, on real sockets: sizes, times, pipelines, and what a client leaves unread."""

import asyncio
import itertools
import json
import re
import socket
from collections.abc import Iterable

import psutil
import pytest
from support.service import Service, listening, sample

pytestmark = pytest.mark.anyio

GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Wire:
    """One connection, on which a test writes bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Send pieces until the service closes the connection."""
        try:
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
        except OSError:
            pass

    async def rest(self, seconds: float = 10) -> bytes:
        """Return what arrives until the service closes the connection."""
        found = b""
        try:
            async with asyncio.timeout(seconds):
                while piece := await self.reader.read(65536):
                    found += piece
        except ConnectionError:
            pass
        return found


async def connect(client) -> Wire:
    return Wire(*await asyncio.open_connection("127.0.0.1", client.base_url.port, family=socket.AF_INET))


def problem(answer: bytes, status: int, code: str) -> dict:
    """Check that the bytes are one response, a problem document that ends the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    for line in (b"content-type: application/problem+json", b"connection: close", b"x-request-id: ", b"nosniff"):
        assert line in head.lower(), head
    document = json.loads(body)
    assert (document["status"], document["code"]) == (status, code)
    return document


HEADS = {
    "one header": (itertools.repeat(b"x" * 65_536), GET + b"X-Big: ", "headers_too_large"),
    "many headers": (itertools.repeat(b"a: b\r\n" * 10_000), GET, "headers_too_large"),
    "the path": (itertools.repeat(b"x" * 65_536), b"GET /", "headers_too_large"),
    "blank lines": (itertools.repeat(b"\r\n" * 30_000), b"", "headers_too_large"),
}


@pytest.mark.parametrize("kind", HEADS)
async def test_an_endless_head_is_refused_before_it_is_kept(tmp_path, kind):
    pieces, start, code = HEADS[kind]
    async with listening(tmp_path) as (_, client):
        memory = [psutil.Process().memory_info().rss]

        async def send() -> None:
            await wire.send([start])
            for _ in range(20):
                await wire.send(itertools.islice(pieces, 80))
                memory.append(psutil.Process().memory_info().rss)

        wire = await connect(client)
        sending = asyncio.create_task(send())
        problem(await wire.rest(), 431, code)
        await sending
        assert max(memory) - memory[0] < 30 * 2**20
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "headers", [b"X-Big: " + b"x" * 65_000 + b"\r\n", b"".join(b"A%d: b\r\n" % i for i in range(101))]
)
async def test_a_complete_head_beyond_a_limit_is_refused(tmp_path, headers):
    async with listening(tmp_path) as (_, client):
        wire = await connect(client)
        await wire.send([GET, headers, b"Y: " + b"y" * 1000 + b"\r\nConnection: close\r\n\r\n"])
        problem(await wire.rest(), 431, "headers_too_large")


async def test_headers_within_the_limits_are_read(tmp_path):
    async with listening(tmp_path) as (_, client):
        headers = {"X-Big": "x" * 60_000} | {f"A{i}": "b" for i in range(90)}
        assert (await client.get("/healthz", headers=headers)).status_code == 200


BODIES = {
    "chunks of one byte": b"1\r\n \r\n",
    "extensions of chunks": b"1;a=" + b"b" * 8000 + b"\r\n \r\n",
}


@pytest.mark.parametrize("kind", BODIES)
async def test_a_body_of_framing_is_refused(tmp_path, kind):
    async with listening(tmp_path) as (_, client):
        wire = await connect(client)
        chunk = BODIES[kind]
        sending = asyncio.create_task(wire.send([CHUNKED, *[chunk * (60_000 // len(chunk))] * 500]))
        problem(await wire.rest(), 413, "body_too_large")
        await sending


async def test_trailers_are_no_headers(tmp_path):
    async with listening(tmp_path, require_token=True) as (made, client):
        token = await made.token("ada")
        wire = await connect(client)
        await wire.send([CHUNKED, b"2\r\n{}\r\n0\r\nAuthorization: Bearer " + token.encode() + b"\r\n\r\n"])
        await asyncio.sleep(0.2)
        await wire.send([GET + b"Connection: close\r\n\r\n"])
        assert re.findall(rb"HTTP/1.1 (\d+) ", await wire.rest()) == [b"401", b"200"]
        endless = await connect(client)
        await endless.send([CHUNKED, b"2\r\n{}\r\n0\r\n", *[b"X: " + b"x" * 60_000 + b"\r\n"] * 100])
        assert b"HTTP/1.1 200" not in await endless.rest()


HALVES = {
    "nothing": (b"", None),
    "a blank line": (b"\r\n", "request_too_slow"),
    "a method": (b"GE", "request_too_slow"),
    "half a header": (GET + b"X-Half: ", "request_too_slow"),
    "no body": (POST + b"Content-Length: 5\r\n\r\n", "request_too_slow"),
    "half a body": (POST + b"Content-Length: 5\r\n\r\n{", "request_too_slow"),
    "half a chunk": (CHUNKED + b"5\r\n{", "request_too_slow"),
}


async def test_half_sent_requests_end_in_time(tmp_path):
    async with listening(tmp_path, head_seconds=0.4, body_seconds=0.4) as (_, client):
        wires = {kind: await connect(client) for kind in HALVES}
        for kind, (start, _code) in HALVES.items():
            await wires[kind].send([start])
        answers = await asyncio.gather(*(wire.rest(5) for wire in wires.values()))
        for (_start, code), answer in zip(HALVES.values(), answers, strict=True):
            if code is None:
                assert answer == b""
            else:
                problem(answer, 408, code)
        assert 'status="500"' not in (await client.get("/metrics")).text


async def test_a_request_that_arrives_a_byte_at_a_time_ends_in_time(tmp_path):
    async with listening(tmp_path, head_seconds=0.5) as (_, client):
        wire = await connect(client)

        async def drip() -> None:
            for byte in GET + b"X: " + b"x" * 1000:
                await wire.send([bytes([byte])])
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        problem(await wire.rest(4), 408, "request_too_slow")
        dripping.cancel()


async def test_the_body_of_a_request_that_was_refused_ends_in_time(tmp_path):
    async with listening(tmp_path, require_token=True, body_seconds=0.4) as (_, client):
        wire = await connect(client)
        await wire.send([POST + b"Content-Length: 500000\r\n\r\n" + b"x" * 100])
        answer = await wire.rest(5)
        assert answer.startswith(b"HTTP/1.1 401 ") and answer.count(b"HTTP/1.1") == 1


async def test_a_client_that_leaves_within_the_body_is_no_error_of_the_service(tmp_path, caplog):
    async with listening(tmp_path) as (_, client):
        for start in (POST + b"Content-Length: 500\r\n\r\n{", CHUNKED + b"5\r\n{"):
            wire = await connect(client)
            await wire.send([start])
            await asyncio.sleep(0.1)
            wire.writer.transport.abort()
        await asyncio.sleep(0.3)
        text = (await client.get("/metrics")).text
        assert 'status="500"' not in text and 'route="/v1/jobs",status="400"} 2.0' in text
        assert "a request failed" not in caplog.text


async def test_a_connection_is_used_again_and_ends_when_it_is_idle(tmp_path):
    async with listening(tmp_path) as (_, client):
        wire = await connect(client)
        for _ in range(3):
            await wire.send([GET + b"\r\n"])
            assert (await wire.reader.readuntil(b'{"status":"ok"}')).startswith(b"HTTP/1.1 200")
        assert wire.writer.transport.is_closing() is False
        made = [line for line in (await client.get("/metrics")).text.splitlines() if "http_connections " in line]
        assert made[-1] == "earshot_http_connections 2.0"


async def test_pipelined_requests_are_answered_in_order_and_bounded(tmp_path):
    async with listening(tmp_path) as (_, client):
        few = await connect(client)
        await few.send([(GET + b"\r\n") * 4 + b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])
        assert re.findall(rb"HTTP/1.1 (\d+) ", await few.rest()) == [b"200"] * 4 + [b"404"]
        many = await connect(client)
        await many.send([(GET + b"\r\n") * 300])
        answers = re.findall(rb"HTTP/1.1 (\d+) ", await many.rest())
        assert set(answers) == {b"200"} and len(answers) < 20


async def test_an_answer_to_nonsense_comes_after_those_to_requests(tmp_path):
    async with listening(tmp_path) as (_, client):
        wire = await connect(client)
        await wire.send([GET + b"\r\n" + b"NONSENSE\r\n\r\n"])
        assert re.findall(rb"HTTP/1.1 (\d+) ", await wire.rest()) == [b"200"]
        alone = await connect(client)
        await alone.send([b"NONSENSE\r\n\r\n"])
        problem(await alone.rest(), 400, "malformed_request")


async def test_a_stream_ends_with_its_connection_though_a_request_waits_on_it(tmp_path):
    async with listening(tmp_path, heartbeat_seconds=0.1) as (made, client):
        job, _ = await made.running()
        wire = await connect(client)
        stream = f"GET /v1/jobs/{job.id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        await wire.send([stream, GET + b"\r\n"])
        await wire.reader.readuntil(b"still here")
        assert made.app.state.context.tails.streams == 1
        wire.writer.transport.abort()
        async with asyncio.timeout(5):
            while made.app.state.context.tails.streams:
                await asyncio.sleep(0.05)


async def test_an_upgrade_is_answered_as_a_request(tmp_path):
    async with listening(tmp_path) as (_, client):
        for protocol in (b"h2c", b"websocket"):
            wire = await connect(client)
            upgrade = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\nSec-WebSocket-Key: x\r\n\r\nmore"
            await wire.send([GET + upgrade])
            answer = await wire.rest()
            assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1") == 1


async def test_connections_beyond_the_limit_are_refused_and_the_others_go_on(tmp_path):
    async with listening(tmp_path, max_connections=20, max_connections_per_peer=10) as (_, client):
        assert (await client.get("/healthz")).status_code == 200
        held = [await connect(client) for _ in range(9)]
        refused = await connect(client)
        document = problem(await refused.rest(), 503, "too_many_connections")
        assert "10 open connections" in document["detail"]
        assert (await client.get("/healthz")).status_code == 200
        held.pop().writer.close()
        await asyncio.sleep(0.1)
        again = await connect(client)
        await again.send([GET + b"Connection: close\r\n\r\n"])
        assert (await again.rest()).startswith(b"HTTP/1.1 200")


async def test_many_refused_connections_do_not_add_up(tmp_path):
    async with listening(tmp_path, max_connections=4) as (_, client):
        held = [await connect(client) for _ in range(4)]
        before = psutil.Process().num_fds()
        beyond = [await connect(client) for _ in range(200)]
        await asyncio.sleep(0.2)
        assert psutil.Process().num_fds() - before - len(beyond) <= 80
        for wire in held + beyond:
            wire.writer.transport.abort()
        await asyncio.sleep(0.1)
        assert (await client.get("/healthz")).status_code == 200


async def ask_for_much(made: Service, client) -> socket.socket:
    """Ask for a response of several MB on a connection with a small buffer, and read nothing."""
    job, run = await made.running()
    run.append_samples([sample("x" * 12_000, i=i) for i in range(500)])
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(narrow, ("127.0.0.1", client.base_url.port))
    request = f"GET /v1/jobs/{job.id}/samples?limit=500 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    await loop.sock_sendall(narrow, request.encode())
    return narrow


async def wait_until_closed(made: Service) -> None:
    """Wait until a connection was closed because its client does not read."""
    ended = made.app.state.context.meters.connections_ended
    async with asyncio.timeout(10):
        while not [s for m in ended.collect() for s in m.samples if s.labels["reason"] == "unread" and s.value]:
            await asyncio.sleep(0.05)


async def test_a_client_that_reads_nothing_is_closed(tmp_path):
    async with listening(tmp_path, unread_seconds=0.4) as (made, client):
        with await ask_for_much(made, client):
            await wait_until_closed(made)
        assert (await client.get("/healthz")).status_code == 200


async def test_what_all_clients_leave_unread_is_bounded(tmp_path):
    async with listening(tmp_path, unread_seconds=60, max_unread_bytes=4 * 2**20) as (made, client):
        slow = [await ask_for_much(made, client) for _ in range(4)]
        await wait_until_closed(made)
        assert (await client.get("/healthz")).status_code == 200
        for one in slow:
            one.close()

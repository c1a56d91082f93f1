"""Ten thousand hostile requests of two users: problem documents without stack traces or data of the other user."""

import asyncio
import random
import socket
from collections import Counter

import httpx
import pytest
from support.service import check_problem, listening, service

from benchmarks.service_hostile.attacks import Attacker, Attempt
from benchmarks.service_hostile.owners import Owner, make_owner, write_traps
from orchestrator.service.store.access import Role

pytestmark = pytest.mark.anyio

REQUESTS = 10_000


async def send(client: httpx.AsyncClient, attempt: Attempt) -> httpx.Response:
    headers = [(_bytes(name), _bytes(value)) for name, value in attempt.headers]
    return await client.request(attempt.method, attempt.target, headers=headers, content=attempt.body)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def check_answer(attempt: Attempt, answer: httpx.Response, other: Owner) -> None:
    """Check that the service did not fail, and that its answer has nothing of the other user."""
    sent = b"\n".join([answer.content, *(name + b": " + value for name, value in answer.headers.raw)])
    for canary in other.canaries:
        assert canary.encode() not in sent, (attempt, sent[:1000])
    assert "x-evil" not in answer.headers
    assert answer.status_code < 500 or (attempt.target, answer.status_code) == ("/v1/cluster", 503), (
        attempt,
        answer.text,
    )
    if answer.status_code >= 400 and attempt.method != "HEAD":
        check_problem(answer, answer.status_code)


async def test_ten_thousand_hostile_requests(tmp_path):
    roots = {name: (tmp_path / "users" / name,) for name in ("ada", "eve")}
    home = tmp_path / "service"
    home.mkdir()
    async with service(home, local=False, refusals_per_second=1e6, owner_roots=roots, data_dir=home) as made:
        ada, eve = [await make_owner(made.store, name, folder) for name, (folder,) in roots.items()]
        seen: dict[str, Counter[int]] = {}
        attackers = []
        for seed, (me, other) in enumerate([(ada, eve), (eve, ada)]):
            traps = write_traps(me, other, home)
            attackers.append((Attacker(random.Random(seed), me, other, traps), made.client(me.token), other))
        for number in range(REQUESTS):
            attacker, client, other = attackers[number % 2]
            attempt = attacker.attempt()
            answer = await send(client, attempt)
            check_answer(attempt, answer, other)
            seen.setdefault(attempt.kind, Counter())[answer.status_code] += 1
        assert sum(counts[404] for counts in seen.values()) > 500
        for kind in ("change of others", "job of others", "token", "many headers", "reward"):
            assert not [status for status in seen[kind] if status < 400], (kind, seen[kind])
        admin = made.client(await made.token("root", Role.ADMIN))
        for owner in (ada, eve):
            for state, job in owner.jobs.items():
                found = (await admin.get(f"/v1/jobs/{job}")).json()
                assert (found["owner"], found["state"], found["priority"]) == (
                    owner.name,
                    state,
                    -100 if state == "queued" else 0,
                )


async def test_an_endless_body_is_refused(tmp_path):
    async with service(tmp_path) as made:

        async def endless():
            for _ in range(100):
                yield b"[" * 65_536

        response = await made.client().post("/v1/jobs", content=endless(), headers={"content-type": "application/json"})
        check_problem(response, 413)


async def test_a_body_of_many_values_is_refused_before_it_is_parsed(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        many = b"{" + b",".join(b'"k%d":0' % i for i in range(6_000)) + b"}"
        for kind in ("application/json", "application/yaml"):
            answer = await client.post("/v1/jobs", content=many, headers={"content-type": kind})
            assert "at most 5000" in check_problem(answer, 413)["detail"]


async def test_invalid_http_on_the_socket(tmp_path):
    """Bytes that are not HTTP get an error of the server or no response, and the service keeps running."""
    async with listening(tmp_path) as (_, client):
        port = client.base_url.port
        for raw in (
            b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01" * 50,
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            b"GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\r\n b\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\n{}",
        ):  # fmt: skip
            reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
            writer.write(raw)
            writer.write_eof()
            async with asyncio.timeout(10):
                answer = await reader.read()
            writer.close()
            assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
        assert (await client.get("/healthz")).status_code == 200

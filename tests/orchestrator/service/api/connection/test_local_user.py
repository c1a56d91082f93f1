"""Without a token a service on loopback trusts the user who started it, and nobody else."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.service import Service, Threaded, check_problem, listening, service

from orchestrator.service.api.app import create_app

pytestmark = pytest.mark.anyio
OTHER = 12_345
ROOT = Path(__file__).parents[5]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")

REQUEST = """
import encodings.idna, http.client, os, sys
if int(sys.argv[1]) != os.geteuid():
    os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]), timeout=10)
for _ in range(3):
    connection.request("GET", "/v1/jobs")
    response = connection.getresponse()
    print(response.status, response.read().decode())
"""

# What nginx sends without any setting but proxy_pass.
PROXY = """
import asyncio, os, sys
if int(sys.argv[1]) != os.geteuid():
    os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
upstream = "127.0.0.1", int(sys.argv[2])

async def forward(reader, writer):
    request, *headers = (await reader.readuntil(b"\\r\\n\\r\\n")).decode().split("\\r\\n")[:-2]
    kept = [line for line in headers if line.lower().partition(":")[0] not in ("host", "connection")]
    head = [request.rpartition(" ")[0] + " " + sys.argv[3], "Host: %s:%d" % upstream, "Connection: close", *kept]
    from_service, to_service = await asyncio.open_connection(*upstream)
    to_service.write("\\r\\n".join([*head, "", ""]).encode())
    writer.write(await from_service.read())
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def command(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", code, *map(str, arguments)]


def ask(uid: int, url: str) -> list[str]:
    """Send three requests on one connection, as a process of this user."""
    port = url.rpartition(":")[2]
    return subprocess.check_output(command(REQUEST, uid, port), text=True, timeout=20).splitlines()


async def token_of(made: Service) -> str:
    return await made.token("ada")


def test_a_process_of_the_same_user_needs_no_token(tmp_path):
    with Threaded(tmp_path) as threaded:
        assert [line[:3] for line in ask(os.geteuid(), threaded.url)] == ["200"] * 3


@needs_root
def test_a_process_of_another_user_does(tmp_path):
    with Threaded(tmp_path) as threaded:
        answers = ask(OTHER, threaded.url)
        assert [line[:3] for line in answers] == ["401"] * 3
        assert "another user of this machine sent the request; create one with `earshot token create`" in answers[0]
        assert [line[:3] for line in ask(os.geteuid(), threaded.url)] == ["200"] * 3


@pytest.mark.parametrize(
    ("uid", "version"),
    [
        (os.geteuid(), "HTTP/1.0"),
        pytest.param(OTHER, "HTTP/1.0", marks=needs_root),
        pytest.param(OTHER, "HTTP/1.1", marks=needs_root),
    ],
)
def test_the_clients_of_a_proxy_need_a_token(tmp_path, uid, version):
    with Threaded(tmp_path) as threaded:
        port = threaded.url.rpartition(":")[2]
        with subprocess.Popen(command(PROXY, uid, port, version), stdout=subprocess.PIPE, text=True) as proxy:
            try:
                assert proxy.stdout is not None
                url = f"http://127.0.0.1:{proxy.stdout.readline().strip()}/v1/jobs"
                check_problem(httpx.get(url), 401)
                token = {"Authorization": f"Bearer {threaded.do(token_of)}"}
                assert httpx.get(url, headers=token).status_code == 200
            finally:
                proxy.kill()


def test_require_token_ends_it_altogether(tmp_path):
    with Threaded(tmp_path, require_token=True) as threaded:
        answers = ask(os.geteuid(), threaded.url)
        assert [line[:3] for line in answers] == ["401"] * 3
        assert "this service trusts nobody without one" in answers[0]


def test_serve_with_require_token_does_not_start_without_a_token(tmp_path):
    words = [Path(sys.executable).parent / "earshot", "serve", "--require-token", "--port", "0"]
    done = subprocess.run(
        [*words, "--data-dir", tmp_path], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 2 and "--require-token, but there is no valid token" in done.stderr


HEADERS = (
    "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded", "Forwarded", "X_Forwarded_For", "Via",
    "X-Real-IP", "X-Client-IP", "Client-IP", "CF-Connecting-IP", "CF-Ray", "True-Client-IP", "X-Cluster-Client-IP",
    "Fastly-Client-IP", "X-Azure-ClientIP", "X-AppEngine-User-IP", "X-Original-Forwarded-For", "X-Remote-Addr",
    "X-Envoy-External-Address", "CDN-Loop", "X-Originating-IP", "X-ProxyUser-Ip", "Forwarded-For", "Max-Forwards",
)  # fmt: skip


async def test_a_header_of_a_proxy_ends_the_trust(tmp_path):
    async with listening(tmp_path) as (_, client):
        for header in HEADERS:
            for value in ("127.0.0.1", ""):
                assert (await client.get("/v1/jobs", headers={header: value})).status_code == 401, header
        usual = {"User-Agent": "curl/8.5", "Accept": "*/*", "Content-Type": "application/json", "X-Request-Id": "1"}
        assert (await client.get("/v1/jobs", headers=usual)).status_code == 200


async def test_a_header_does_not_change_whose_guesses_are_counted(tmp_path):
    async with listening(tmp_path, refusals_per_second=0.1) as (_, client):
        made = [{"Authorization": "Bearer earshot_x", "X-Forwarded-For": f"10.0.0.{i}"} for i in range(5)]
        assert [(await client.get("/v1/jobs", headers=one)).status_code for one in made] == [401] + [429] * 4


async def test_a_server_that_does_not_tell_who_connects_trusts_nobody(tmp_path):

    async with service(tmp_path) as made:
        transport = httpx.ASGITransport(create_app(made.store, made.settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8420") as client:
            refused = check_problem(await client.get("/v1/jobs"), 401)
            assert "the system does not say which user" in refused["detail"]

"""Ten thousand hostile requests: all get problem documents without stack traces, and the service keeps running."""

import asyncio
import json
import random
import socket
import string

import pytest
from support.service import SPEC, check_problem, listening, sample, service

from orchestrator.service.store.access import Role

pytestmark = pytest.mark.anyio

REQUESTS = 10_000

TRAVERSALS = (
    "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//....//etc/passwd",
    "/etc/passwd", "file:///etc/passwd", "..\\..\\windows", "%c0%ae%c0%ae/", "%00", "a%00b", "\u202e", "%ff%fe",
    "~root", "*", "' OR 1=1 --", "1; DROP TABLE jobs", "${jndi:ldap://x}", "{{7*7}}", "<script>", "a" * 3000,
    "%0d%0aX-Evil: 1",
)  # fmt: skip
VALUES = (
    None, True, -1, 0, 1.5, 1e308, 10**400, "", "x" * 10_000, "\u0000", "\ud800", [], {}, [[]], {"a": {}}, "1", "../x",
    "/etc/passwd", "builtin:", "os:system", "\u202e", "NaN", [None] * 100, {"__class__": "x"}, "!!python/object:x",
)  # fmt: skip
PATHS = ("", "/workers", "/metrics", "/samples", "/checkpoints", "/samples/0/audio")
DEEP = (b"[" * 100_000, b'{"a":' * 50_000, b"[" * 33 + b"]" * 33, b'{"steps":' * 40 + b"1" + b"}" * 40)
RAW = (
    b"", b"null", b"[]", b'"x"', b"{", b"{}", b'{"a":1,"a":2}', b'{"steps":NaN}', b'{"steps":Infinity}', b"\xff\xfe",
    b'{"name":"\\ud800"}', b'{"name":"\\u0000"}', b'{"steps":1' + b"0" * 5000 + b"}", b"\x80\x04\x95pickle", b"<xml/>",
    b"{" + b'"a":[' * 200_000, b"x" * (1024 * 1024 + 1), b" " * 1_500_000,
)  # fmt: skip
YAML = (
    b"a: &a [x]\nb: *a", b"!!python/object/apply:os.system ['true']", b"a: " + b"[" * 5000, b"a: 1\na: 2",
    b"? [1]\n: 2", b"a: 2020-01-01", b"a: .nan", b"&a [*a]", b"x: !!set {a}", b"<<: {a: 1}", b"a: \x00", b"1: 2",
    b"y" * 70_000, b"- a", b"%YAML 9.9\n--- {}", b"a: !<tag:yaml.org,2002:binary> x", b"a: !!timestamp 99999-99-99",
)  # fmt: skip


def somewhere(chance, value):
    """Return a job file with one value in the wrong field."""
    spec = json.loads(
        json.dumps({**SPEC, "rollout": {"workers": 2, "limits": {}}, "reward": {"functions": {"accuracy": 1}}})
    )
    place = spec
    while True:
        key = chance.choice([*place, "unknown"])
        inner = place.get(key)
        if isinstance(inner, dict) and inner and chance.random() < 0.7:
            place = inner
        else:
            place[key] = value
            return spec


class Attacker:
    """A user with a valid token who knows the id of another user's job."""

    def __init__(self, chance, client, other):
        self.chance, self.client, self.other = chance, client, other
        self.kinds = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("try_")]

    async def once(self):
        kind = self.chance.choice(self.kinds)
        return kind.__name__, await kind()

    async def try_body(self):
        kind = self.chance.choice(
            ["application/json"] * 6 + ["text/plain", "application/x-python-pickle", "", "multipart/form-data"]
        )
        body = self.chance.choice([*RAW, *DEEP] if self.chance.random() < 0.2 else RAW[:15])
        return await self.client.post("/v1/jobs", content=body, headers={"content-type": kind})

    async def try_yaml(self):
        body = self.chance.choice(YAML)
        return await self.client.post("/v1/jobs", content=body, headers={"content-type": "application/yaml"})

    async def try_wrong_types(self):
        value = self.chance.choice(VALUES)
        body = json.dumps(somewhere(self.chance, value))
        return await self.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})

    async def try_path(self):
        name = self.chance.choice(TRAVERSALS)
        path = self.chance.choice(PATHS)
        url = self.chance.choice(
            [f"/v1/jobs/{name}{path}", f"/v1/jobs/{self.other}/samples/{name}/audio", f"/v1/{name}", f"/{name}"]
        )
        method = self.chance.choice(["GET"] * 8 + ["POST", "DELETE", "PUT", "PATCH", "TRACE", "EVIL"])
        return await self.client.request(method, url)

    async def try_job_of_others(self):
        what = self.chance.choice(
            ["cancel", "pause", "resume", "checkpoint", "rollout-workers", *PATHS, "/events", "/logs"]
        )
        if what == "rollout-workers":
            return await self.client.patch(f"/v1/jobs/{self.other}/{what}", json={"count": 0})
        if what.startswith("/") or not what:
            return await self.client.get(f"/v1/jobs/{self.other}{what}")
        return await self.client.post(f"/v1/jobs/{self.other}/{what}")

    async def try_query(self):
        name = self.chance.choice(["state", "cursor", "limit", "name", "owner"])
        bad = {"state": "x", "cursor": "x", "limit": "x", "name": "x" * 65, "owner": "x" * 129}[name]
        value = self.chance.choice([bad, bad + "%00", *(f"{t}{'x' * 200}" for t in TRAVERSALS[:5])])
        return await self.client.get(f"/v1/jobs?{name}={value}")

    async def try_header(self):
        name = self.chance.choice([b"authorization", b"idempotency-key", b"content-length", b"content-type"])
        value = self.chance.choice(
            [b"\xff" * 20, b"a b", b"", b"x" * 9000, b"\xe2\x80\xae", b"-5", b"9" * 30, b"1e3", b"a, b"]
        )
        method = self.client.post
        return await method("/v1/jobs", content=b"{}", headers=[(name, value)])

    async def try_token(self):
        token = "".join(self.chance.choice(string.printable[:90]) for _ in range(40))
        return await self.client.get("/v1/jobs", headers={"Authorization": f"Bearer earshot_{token}"})


async def test_ten_thousand_hostile_requests(tmp_path):
    async with service(tmp_path, local=False, refusals_per_second=1e6) as made:
        other, run = await made.running("ada")
        clip = made.clip()
        run.append_samples([sample(str(clip))])
        client, chance = made.client(await made.token("eve")), random.Random(7)
        attacker, seen = Attacker(chance, client, other.id), {}
        for _ in range(REQUESTS):
            kind, response = await attacker.once()
            counts = seen.setdefault(kind, {})
            counts[response.status_code] = counts.get(response.status_code, 0) + 1
            if response.status_code >= 400:
                assert response.status_code < 500, (kind, response.status_code, response.text)
                check_problem(response, response.status_code)
            else:
                # A random value may be valid in the field it was assigned to.
                assert kind == "try_wrong_types", (kind, response.request.url, response.request.content[:200])
            assert "x-evil" not in response.headers
        assert sum(counts.get(404, 0) for counts in seen.values()) > 500
        admin = made.client(await made.token("root", Role.ADMIN))
        jobs = (await admin.get("/v1/jobs", params={"owner": "ada"})).json()["items"]
        assert [(job["id"], job["state"]) for job in jobs] == [(other.id, "running")]
        assert not (run.path / "commands.jsonl").exists()


async def test_an_endless_body_is_refused(tmp_path):
    async with service(tmp_path) as made:

        async def endless():
            for _ in range(100):
                yield b"[" * 65_536

        response = await made.client().post("/v1/jobs", content=endless(), headers={"content-type": "application/json"})
        check_problem(response, 413)


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

"""Hostile requests: what a user with a valid token may send who knows everything of another user but their secrets."""

import json
import random
import string
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.service_hostile.owners import Owner
from benchmarks.service_hostile.values import (
    COUNTS,
    DEEP,
    LARGE_BODIES,
    NUMBERS,
    PARTS,
    PATH_FIELDS,
    RANGES,
    REWARDS,
    SMALL_BODIES,
    SPEC,
    TRAVERSALS,
    VALUES,
    YAML,
)

JSON = ("content-type", "application/json")
_SAFE = "/%:?&=,;@!$'()*+-._~[]"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request."""

    kind: str
    method: str
    target: str
    headers: tuple[tuple[str | bytes, str | bytes], ...] = ()
    body: bytes | None = None
    token: bool = True
    """It is sent with the attacker's token."""

    def wire(self, token: str) -> bytes:
        """Return the request as bytes of HTTP/1.1 that end the connection."""
        names = {_bytes(name).lower() for name, _ in self.headers}
        lines = [f"{self.method} {urllib.parse.quote(self.target, safe=_SAFE)} HTTP/1.1".encode(), b"Host: 127.0.0.1"]
        if self.token and b"authorization" not in names:
            lines.append(b"Authorization: Bearer " + token.encode())
        lines += [_bytes(name) + b": " + _bytes(value) for name, value in self.headers]
        if self.body is not None and b"content-length" not in names:
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join([*lines, b"Connection: close", b"", self.body or b""])


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


class Attacker:
    """Makes the requests of one user against another, at random."""

    def __init__(self, chance: random.Random, me: Owner, other: Owner, traps: list[str]) -> None:
        self._chance, self._me, self._other, self._traps = chance, me, other, traps
        self._kinds: list[Callable[[], Attempt]] = [
            getattr(self, name) for name in sorted(dir(self)) if name.startswith("try_")
        ]

    def attempt(self) -> Attempt:
        """Return the next request."""
        return self._chance.choice(self._kinds)()

    def try_body(self) -> Attempt:
        """Send a body that is not a job."""
        kinds = ["application/json"] * 6 + ["text/plain", "application/x-python-pickle", "", "multipart/form-data"]
        large = self._chance.random() < 0.1
        body = self._chance.choice([*LARGE_BODIES, *DEEP] if large else SMALL_BODIES)
        return self._post("body", body, kind=self._chance.choice(kinds))

    def try_yaml(self) -> Attempt:
        """Send YAML that JSON could not express, or that takes long."""
        return self._post("yaml", self._chance.choice(YAML), kind="application/yaml")

    def try_wrong_types(self) -> Attempt:
        """Put a value into the wrong field."""
        return self._post("wrong types", json.dumps(self._somewhere(self._chance.choice(VALUES))).encode())

    def try_numbers(self) -> Attempt:
        """Write a number as no program should."""
        text = json.dumps(self._somewhere("@")).encode().replace(b'"@"', self._chance.choice(NUMBERS), 1)
        return self._post("numbers", text)

    def try_counts(self) -> Attempt:
        """Write a number in a query, or a count, as no program should."""
        value, job = self._chance.choice(COUNTS), self._me.jobs["running"]
        number = self._chance.choice(NUMBERS)
        return self._chance.choice(
            [
                Attempt("counts", "GET", f"/v1/jobs?limit={value}"),
                Attempt("counts", "GET", f"/v1/jobs/{job}/metrics?points={value}"),
                Attempt("counts", "GET", f"/v1/jobs/{job}/samples?limit={value}&step={value}"),
                Attempt("counts", "POST", f"/v1/jobs?priority={value}&max_restarts={value}", (JSON,), b"{}"),
                Attempt("counts", "PATCH", f"/v1/jobs/{job}/rollout-workers", (JSON,), b'{"count": %s}' % number),
                Attempt("counts", "PATCH", f"/v1/jobs/{job}", (JSON,), b'{"priority": %s}' % number),
            ]
        )

    def try_path(self) -> Attempt:
        """Leave the routes by the path."""
        name, part = self._chance.choice(TRAVERSALS), self._chance.choice(PARTS)
        target = self._chance.choice(
            [f"/v1/jobs/{name}{part}", f"/v1/jobs/{self._victim()}/samples/{name}/audio", f"/v1/{name}", f"/{name}"]
        )
        method = self._chance.choice(["GET"] * 8 + ["HEAD", "POST", "DELETE", "PUT", "PATCH", "TRACE", "EVIL"])
        return Attempt("path", method, target)

    def try_job_of_others(self) -> Attempt:
        """Read a job of the other user."""
        headers = [(), (("accept", "application/json"),), (("if-none-match", "*"),), (("accept", "x/y"),)]
        method = self._chance.choice(["GET", "GET", "HEAD"])
        target = f"/v1/jobs/{self._victim()}{self._chance.choice(PARTS)}"
        return Attempt("job of others", method, target, self._chance.choice(headers))

    def try_change_of_others(self) -> Attempt:
        """Change a job of the other user."""
        job = f"/v1/jobs/{self._victim()}"
        commands = [f"{job}/{name}" for name in ("cancel", "pause", "resume", "checkpoint", "retry")]
        return self._chance.choice(
            [
                Attempt("change of others", "POST", self._chance.choice(commands)),
                Attempt(
                    "change of others", "POST", self._chance.choice(commands), (("idempotency-key", self._other.key),)
                ),
                Attempt("change of others", "DELETE", job),
                Attempt("change of others", "PATCH", job, (JSON,), b'{"priority": 100}'),
                Attempt("change of others", "PATCH", f"{job}/rollout-workers", (JSON,), b'{"count": 0}'),
            ]
        )

    def try_file(self) -> Attempt:
        """Name a file that this user may not read, or that never ends."""
        spec = json.loads(json.dumps(SPEC))
        *above, last = self._chance.choice([("data", "train")] * 8 + list(PATH_FIELDS))
        place = spec
        for key in above:
            place = place.setdefault(key, {})
        place[last] = self._chance.choice(self._traps)
        target = self._chance.choice(["/v1/jobs", "/v1/jobs:validate"])
        return self._post("file", json.dumps(spec).encode(), target=target)

    def try_reward(self) -> Attempt:
        """Name a function that runs code of the service's machine."""
        spec = {
            **SPEC,
            "reward": {"functions": {self._chance.choice(REWARDS): 1}, "allowed_modules": ["os", "builtins"]},
        }
        return self._post("reward", json.dumps(spec).encode(), target="/v1/jobs:validate")

    def try_key(self) -> Attempt:
        """Use the idempotency key of the other user, or a strange one."""
        keys: list[str | bytes] = [self._other.key, b"\xff" * 20, "a b", "", "x" * 300, "\u202e"]
        body = json.dumps({**SPEC, "name": f"n{self._chance.randrange(5)}"}).encode()
        return self._post("key", body, ("idempotency-key", self._chance.choice(keys)))

    def try_scaling(self) -> Attempt:
        """Ask for more workers than there may be."""
        count = self._chance.choice([10**3, 10**6, 10**18])
        target = f"/v1/jobs/{self._me.jobs[self._chance.choice(['running', 'queued', 'failed'])]}/rollout-workers"
        return Attempt("scaling", "PATCH", target, (JSON,), json.dumps({"count": count}).encode())

    def try_query(self) -> Attempt:
        """Send query parameters that do not exist, or have no such value."""
        name = self._chance.choice(["state", "cursor", "limit", "name", "owner", "unknown", "__proto__", "state[]"])
        values = ["x", "x" * 300, "%00", f"{self._other.name}", *(f"{t}{'x' * 200}" for t in TRAVERSALS[:5])]
        pages = ["/v1/jobs", "/v1/audit", f"/v1/jobs/{self._me.jobs['running']}/samples", "/metrics", "/v1/me"]
        return Attempt("query", "GET", f"{self._chance.choice(pages)}?{name}={self._chance.choice(values)}")

    def try_lists(self) -> Attempt:
        """Read what is there for everybody, and should not name others."""
        pages = ["/v1/jobs?limit=500", f"/v1/jobs?owner={self._other.name}", "/metrics", "/v1/cluster", "/v1/limits"]
        pages += [
            "/v1/me",
            "/v1/version",
            "/v1/audit",
            f"/v1/audit?actor={self._other.name}",
            "/openapi.json",
            "/readyz",
        ]
        return Attempt("lists", "GET", self._chance.choice(pages))

    def try_range(self) -> Attempt:
        """Ask for strange ranges of a clip."""
        whose = self._chance.choice([self._me, self._other])
        job, sample = whose.jobs["running"], self._chance.choice([*whose.samples, "0", "1-4-4-00000000"])
        return Attempt(
            "range", "GET", f"/v1/jobs/{job}/samples/{sample}/audio", (("range", self._chance.choice(RANGES)),)
        )

    def try_header(self) -> Attempt:
        """Send strange headers."""
        names = [b"authorization", b"idempotency-key", b"content-length", b"content-type", b"last-event-id", b"accept"]
        values = [b"\xff" * 20, b"a b", b"", b"x" * 9000, b"\xe2\x80\xae", b"-5", b"9" * 30, b"1e3", b"a, b"]
        return self._post("header", b"{}", (self._chance.choice(names), self._chance.choice(values)))

    def try_many_headers(self) -> Attempt:
        """Send more headers than a request may have."""
        many = tuple(
            (f"x-{i}", "y" * self._chance.choice([1, 900])) for i in range(self._chance.choice([99, 150, 400]))
        )
        return Attempt("many headers", "GET", "/v1/jobs", many)

    def try_token(self) -> Attempt:
        """Guess a token."""
        made = "".join(self._chance.choice(string.ascii_letters + "!/+=\u00e9") for _ in range(40))
        return Attempt("token", "GET", "/v1/jobs", (("authorization", f"Bearer earshot_{made}".encode()),))

    def _post(
        self, label: str, body: bytes, *headers: Any, kind: str = "application/json", target: str = "/v1/jobs"
    ) -> Attempt:
        named = () if any(_bytes(name) == b"content-type" for name, _ in headers) else (("content-type", kind),)
        return Attempt(label, "POST", target, (*named, *headers), body)

    def _victim(self) -> str:
        return self._chance.choice(list(self._other.jobs.values()))

    def _somewhere(self, value: Any) -> dict[str, Any]:
        """Return a job file with one value in the wrong field."""
        spec: dict[str, Any] = json.loads(
            json.dumps({**SPEC, "rollout": {"workers": 2, "limits": {}}, "reward": {"functions": {"accuracy": 1}}})
        )
        place = spec
        while True:
            key = self._chance.choice([*place, "unknown"])
            inner = place.get(key)
            if isinstance(inner, dict) and inner and self._chance.random() < 0.7:
                place = inner
            else:
                place[key] = value
                return spec

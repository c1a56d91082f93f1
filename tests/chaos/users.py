"""Two users of a real service, and what disturbs it: in an order that depends on a seed only."""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from integration.conftest import EARSHOT
from integration.test_service import Service

OPTIONS = ("--max-running", "2", "--preemption")
USERS = ("ann", "bob")
_GAP = (3.0, 9.0)
_RARE = {"kill ray": 240.0, "kill driver": 100.0, "preempt": 180.0, "kill service": 50.0, "neighbour": 120.0}
"""Least seconds between two disturbances of a kind: the jobs have to get somewhere in between."""
_KINDS = ("scale", "scale", "pause", "resume", "resume", "checkpoint", *_RARE)
_ACTIVE = ("starting", "running", "paused", "recovering")
_REFUSED = {404, 409, 422, 429, 503}
"""Answers that are allowed: the job is in another state by now, or something is away."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A command that the service answered with 202."""

    job: str
    command: str
    id: str
    count: int | None


class Users:
    """Two users of a service, with a journal of the answers that promise something."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.commands: list[Accepted] = []
        self.jobs: dict[str, str] = {}
        """User by job."""
        self.unexpected: list[str] = []
        """Answers that no request may get."""
        self._tokens = {user: self._new_token(user) for user in USERS}

    def _new_token(self, user: str) -> str:
        command = [str(EARSHOT), "token", "create", user, "--data-dir", str(self.service.data_dir), "--json"]
        made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return str(json.loads(made.stdout)["token"])

    def ask(self, user: str, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Return the answer; None if the service was away or refused."""
        headers = {"Authorization": f"Bearer {self._tokens[user]}"}
        try:
            answer = httpx.request(method, f"{self.service.url}/v1{path}", headers=headers, timeout=60, **options)
        except httpx.TransportError:
            return None
        if not answer.is_success and answer.status_code not in _REFUSED:
            self.unexpected.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer if answer.is_success else None

    def submit(self, user: str, job: dict[str, Any], priority: int = 0, restarts: int = 50) -> str | None:
        """Submit a job; return its id, if the service took it."""
        params = {"priority": priority, "max_restarts": restarts}
        answer = self.ask(user, "POST", "/jobs", json=job, params=params)
        if answer is None:
            return None
        identifier = str(answer.json()["id"])
        self.jobs[identifier] = user
        return identifier

    def send(self, job: str, command: str, count: int | None = None) -> bool:
        """Send a command; return whether it was accepted."""
        if command == "scale":
            answer = self.ask(self.jobs[job], "PATCH", f"/jobs/{job}/rollout-workers", json={"count": count})
        else:
            answer = self.ask(self.jobs[job], "POST", f"/jobs/{job}/{command}")
        if answer is not None and answer.status_code == 202:
            self.commands.append(Accepted(job, command, str(answer.json()["id"]), count))
        return answer is not None

    def state(self, job: str) -> str | None:
        """Return the state of a job; None while the service is away."""
        answer = self.ask(self.jobs[job], "GET", f"/jobs/{job}")
        return None if answer is None else str(answer.json()["state"])

    def workers(self, job: str) -> int:
        """Return the number of workers of a job that serve."""
        answer = self.ask(self.jobs[job], "GET", f"/jobs/{job}/workers")
        return 0 if answer is None else sum(one["state"] == "serving" for one in answer.json()["items"])

    def last_count(self, job: str, failed: set[str]) -> int | None:
        """Return the number of workers of the last scale command of a job that has not failed."""
        counts = [
            one.count for one in self.commands if (one.job, one.command) == (job, "scale") and one.id not in failed
        ]
        return counts[-1] if counts else None


class Neighbour:
    """Another program that keeps every core busy, in a session of its own and at ordinary priority."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._until = 0.0

    def come(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        if not self._processes:
            command = [sys.executable, "-c", "while True: pass"]
            cores = range(os.cpu_count() or 1)
            self._processes = [subprocess.Popen(command, start_new_session=True) for _ in cores]

    def leave(self, *, at_once: bool = False) -> None:
        """End it if its time is over."""
        if at_once or time.monotonic() > self._until:
            for process in self._processes:
                process.kill()
                process.wait()
            self._processes = []


class Chaos:
    """Disturbs two long jobs of two users, and lets short jobs of higher priority preempt them."""

    def __init__(self, users: Users, job: dict[str, Any], seed: int) -> None:
        self.users, self._job, self._random = users, job, random.Random(seed)
        self.neighbour, self.done = Neighbour(), list[str]()
        self._last: dict[str, float] = {}
        self.drivers_killed = dict[str, int]()
        self.long: list[str] = []

    def begin(self) -> None:
        """Submit the long jobs, and scale each while it starts."""
        for user in USERS:
            job = self.users.submit(user, {**self._job, "name": f"long-{user}", "steps": 100_000})
            assert job is not None
            self.long.append(job)
        for job in self.long:
            self.users.service.wait(lambda job=job: self.users.state(job) in _ACTIVE)
            assert self.users.send(job, "scale", 2)
            self.done.append(f"scale {job} to 2, {self.users.state(job)}")

    def disturb(self, seconds: float) -> None:
        """Disturb for this long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # All of it is drawn, also for a kind whose turn it is not: the sequence depends on the seed alone.
            kind, gap = self._random.choice(_KINDS), self._random.uniform(*_GAP)
            chance = self._random.random()
            if time.monotonic() - self._last.get(kind, -1e9) >= _RARE.get(kind, 0.0):
                self._last[kind] = time.monotonic()
                outcome = self._one(kind, chance)
                self.done.append(f"{kind} {outcome}")
                print(f"{time.strftime('%H:%M:%S')} {kind}: {outcome}", flush=True)
            time.sleep(gap)
            self.neighbour.leave()
        self.neighbour.leave(at_once=True)

    def _one(self, kind: str, chance: float) -> str:
        job = self.long[int(chance * len(self.long))]
        match kind:
            case "scale":
                count = 1 + int(chance * 1000) % 2
                return f"{job} to {count}: {self.users.send(job, 'scale', count)}, {self.users.state(job)}"
            case "pause" | "resume" | "checkpoint":
                return f"{job}: {self.users.send(job, kind)}, {self.users.state(job)}"
            case "preempt":
                user = USERS[int(chance * len(USERS))]
                short = {**self._job, "name": f"short-{user}", "steps": 2}
                return f"by {self.users.submit(user, short, priority=5)}"
            case "neighbour":
                self.neighbour.come(20 + 40 * chance)
                return f"for {20 + 40 * chance:.0f} s"
        return self._kill(kind, job, chance)

    def _kill(self, kind: str, job: str, chance: float) -> str:
        service = self.users.service
        if kind == "kill driver":
            return self._kill_driver(job)
        if kind == "kill ray":
            return f"{kill_family(service.data_dir)} processes"
        service.kill()
        time.sleep(3 * chance)
        service.start(*OPTIONS)
        return f"away for {3 * chance:.1f} s"

    def _kill_driver(self, job: str) -> str:
        with suppress(IndexError, psutil.NoSuchProcess, FileNotFoundError):
            self.users.service.driver(job).kill()
            self.drivers_killed[job] = self.drivers_killed.get(job, 0) + 1
            return job
        return f"{job}: there is none"


def kill_family(data_dir: Path) -> int:
    """Kill the Ray of a data directory with all its descendants; return how many there were."""
    with suppress(FileNotFoundError, psutil.NoSuchProcess, ValueError):
        root = psutil.Process(json.loads((data_dir / "ray.json").read_text())["pid"])
        family = [root, *root.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return len(family)
    return 0

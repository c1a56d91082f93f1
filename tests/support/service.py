"""Shared by tests of the API: a service without a cluster, whose jobs only the test runs."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import soundfile
import uvicorn
from fastapi import Request

from orchestrator.cluster.inventory import ClusterNode, Usage
from orchestrator.job.spec import JobSpec
from orchestrator.run.directory import RunDirectory
from orchestrator.run.samples import Sample
from orchestrator.schemas.job_state import JobState
from orchestrator.service.api.app import create_app
from orchestrator.service.api.connection.peer import Peer, peer_of_address, peer_of_request
from orchestrator.service.api.connection.protocol import server_config
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.observability.tracing import Tracing
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import new_token, token_hash
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import Store

SPEC: dict[str, Any] = {
    "name": "small",
    "steps": 20,
    "model": {"path": "builtin:tiny-qwen2-audio"},
    "data": {"train": "builtin:synthetic"},
}
Result = TypeVar("Result")
BASE = "http://127.0.0.1:8000"


class OneNode:
    """A cluster of one machine, with the given uses."""

    def __init__(self) -> None:
        self.uses: list[Usage] = []

    async def nodes(self) -> list[ClusterNode]:
        return [ClusterNode("c0ffee", "10.0.0.5", True, 16, 2, "H100", 2**37, tuple(self.uses))]


def _peer_of(request: Request) -> Peer:
    """Return who sent a request. Without a socket, requests from a loopback address are those of the own user."""
    if hasattr(request.state, "peer"):
        return peer_of_request(request)
    found = peer_of_address(request.client.host if request.client else "")
    return Peer(found.key, found.local, os.geteuid() if found.local else None)


class Service:
    """An app with its own store."""

    def __init__(self, home: Path, store: Store, tracing: Tracing | None = None, **settings: Any) -> None:
        self.home, self.store = home, store
        self.data = home / "data"
        self.data.mkdir(exist_ok=True)
        self.settings = ApiSettings(
            **{"roots": (self.data,), "request_burst": 1e6, "requests_per_second": 1e6, **settings}
        )
        self.cluster = OneNode()
        self.app = create_app(store, self.settings, cluster=self.cluster, tracing=tracing, peer_of=_peer_of)
        self.clients: list[httpx.AsyncClient] = []

    def client(self, token: str | None = None, **more: Any) -> httpx.AsyncClient:
        """Return a client of the app; without a token, it is the local user."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, **more)
        made = httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers, timeout=20)
        self.clients.append(made)
        return made

    async def token(self, owner: str, role: Role = Role.SUBMITTER) -> str:
        """Create a token."""
        token = new_token()
        await self.store.create_token(name=owner, owner=owner, role=role, token_hash=token_hash(token))
        return token

    async def job(self, owner: str = "local", **changes: Any) -> JobRecord:
        """Submit a job to the queue."""
        job, _ = await self.store.submit(JobSpec.model_validate({**SPEC, **changes}), owner=owner)
        return job

    async def running(self, owner: str = "local", **changes: Any) -> tuple[JobRecord, RunDirectory]:
        """Start a job with a run directory, as a driver would."""
        job = await self.job(owner, **changes)
        await self.store.transition(job.id, JobState.QUEUED, JobState.STARTING, attempt=1)
        run = RunDirectory.create(job.run_dir, "name: small\n")
        run.append_event("state", state="starting")
        run.append_event("scaled", before=0, target=2, reason="the job starts")
        for i in range(2):
            run.append_event("worker_started", worker=f"rollout-{i}", node="n", pid=10 + i, weight_version=0)
        run.append_event("state", state="running")
        return await self.store.transition(job.id, JobState.STARTING, JobState.RUNNING), run

    def clip(self, name: str = "clip.wav", seconds: float = 1.0) -> Path:
        """Write a clip under the roots."""
        path = self.data / name
        soundfile.write(path, np.zeros(int(16_000 * seconds)), 16_000)
        return path


@asynccontextmanager
async def service(home: Path, **settings: Any) -> AsyncIterator[Service]:
    """Run a service for the duration of a test."""
    async with Store(sqlite_url(home / "earshot.db"), home / "runs") as store:
        made = Service(home, store, **settings)
        yield made
        for client in made.clients:
            await client.aclose()
        await made.app.state.context.tails.stop()
        made.app.state.context.admission.close()


@asynccontextmanager
async def listening(home: Path, **settings: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Run a service on a real socket, and connect a client to it."""
    async with service(home, **settings) as made:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1000)
        config = server_config(made.app, lifespan="on", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=20, limits=limits) as client:
            yield made, client
        server.should_exit = True
        await asyncio.wait_for(serving, 10)


def sample(audio: str, step: int = 1, i: int = 0) -> Sample:
    """Return a scored completion."""
    return Sample(
        step, f"q#{i}", i, "What is heard?", ("a", "b"), "a", audio, "a", {"accuracy": 1.0}, 1.0,
        0.0, True, None, "stop", step, step, "rollout-0",
    )  # fmt: skip


def check_problem(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    """Check that a response is a problem document and return it."""
    assert response.status_code in statuses, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json", response.text
    document: dict[str, Any] = json.loads(response.text)
    assert document["status"] == response.status_code
    assert document["title"] and document["detail"]
    assert "Traceback" not in response.text and ".py" not in response.text
    assert response.headers["x-request-id"]
    return document


class Threaded:
    """A service in its own thread, for clients that block."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home, self.settings = home, settings
        self.made: Service | None = None
        self.url = ""

    def __enter__(self) -> "Threaded":
        self.loop = asyncio.new_event_loop()
        self._stop, started = asyncio.Event(), threading.Event()

        async def serve() -> None:
            async with listening(self.home, **self.settings) as (made, client):
                self.made, self.url = made, str(client.base_url)
                started.set()
                await self._stop.wait()

        self._thread = threading.Thread(target=lambda: self.loop.run_until_complete(serve()))
        self._thread.start()
        assert started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self.loop.close()

    def do(self, action: Callable[[Service], Coroutine[Any, Any, Result]]) -> Result:
        """Run `action` on the event loop of the service and return its result."""
        assert self.made is not None
        return asyncio.run_coroutine_threadsafe(action(self.made), self.loop).result(20)

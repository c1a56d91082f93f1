"""The service as one process: the API, the supervisor of jobs, and the objects that they share.

Invariants: at most one service runs on a data directory. If the supervisor ends with an error, the process ends too: an
API that accepts jobs without running them would be worse than no API.
"""

import asyncio
import fcntl
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from audio_qa.errors import InputError
from orchestrator.cluster.inventory import Cluster
from orchestrator.cluster.local_ray import LocalRay
from orchestrator.cluster.ray_start import use_token
from orchestrator.job.spec import JobSpec
from orchestrator.places import HOST, PORT, database_of, runs_of
from orchestrator.service.api.app import create_app
from orchestrator.service.api.connection.protocol import server_config
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.observability.tracing import TracingError, tracing_of_environment
from orchestrator.service.store.access import TokenRecord
from orchestrator.service.store.database import database_url
from orchestrator.service.store.store import QueueCaps, Store, StoreUnavailableError, opened
from orchestrator.service.supervision.limits import Limits, check_fits
from orchestrator.service.supervision.retention import remove_old_jobs_hourly
from orchestrator.service.supervision.supervisor import Supervisor

_DATABASE_SECONDS = 60.0
"""Time to wait for the database at start-up."""
_STREAM_SECONDS = 5
"""Time for open requests to end when the service stops."""

_log = logging.getLogger(__name__)


class ServeError(InputError):
    """The service cannot start with these settings. One line."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of `earshot serve`."""

    data_dir: Path
    host: str = HOST
    port: int = PORT
    """0 selects a free port."""
    database_url: str | None = None
    """Default: SQLite in the data directory."""
    ray_address: str | None = None
    """URL of the dashboard of a Ray cluster. Default: a local Ray."""
    autoscaling: bool = False
    """The cluster starts nodes on demand: its current size does not limit jobs."""
    python: str = sys.executable
    """Python interpreter with Earshot on the head node of the cluster."""
    limits: Limits = field(default_factory=Limits)
    preemption: bool = False
    storage: str | None = None
    """URL under which runs are stored. Default: kept locally only."""
    keep_days: float = 0
    """Days after which ended jobs are deleted with their run directories; 0 keeps all."""
    roots: tuple[Path, ...] = (Path.home(),)
    owner_roots: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Folders that only the jobs of one owner may read, by owner."""
    cache_roots: tuple[Path, ...] = ()
    """Folders that may hold caches which jobs write to."""
    reward_modules: tuple[str, ...] = ()
    judge_hosts: tuple[str, ...] = ()
    judge_keys: tuple[str, ...] = ()
    require_token: bool = False
    """Every request needs a token, from the user who started the service too."""


async def serve(settings: ServerSettings) -> None:
    """Run the service until SIGINT or SIGTERM.

    Raises:
        ServeError, DatabaseUrlError: nothing was started.
        StoreUnavailableError: the database did not answer at start-up, or cannot be used (DatabaseUnusableError).
    """
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServeError(f"{settings.data_dir}: cannot create the data directory: {error.strerror}") from error
    if settings.data_dir.stat().st_mode & 0o077:
        # It may be a folder with other things, whose permissions are not the service's to change.
        _log.warning(
            "other users may look into %s, at runs and logs: `chmod 700` it unless they should", settings.data_dir
        )
    with _locked(settings.data_dir), listening(settings.host, settings.port) as listener:
        caps = QueueCaps(settings.limits.queued, settings.limits.queued_per_user)
        store = Store(settings.database_url or database_of(settings.data_dir), runs_of(settings.data_dir), caps)
        async with opened(store, _DATABASE_SECONDS):
            local = _is_loopback(listener)
            if (settings.require_token or not local) and not any(_is_valid(t) for t in await store.list_tokens()):
                why = "--require-token" if local else f"{settings.host} is reachable from other machines"
                other = "leave --require-token out" if local else "listen on 127.0.0.1"
                raise ServeError(
                    f"{why}, but there is no valid token: create one with `earshot token create`, or {other}"
                )
            await _serve(settings, store, listener, local=local)


async def _serve(settings: ServerSettings, store: Store, listener: socket.socket, *, local: bool) -> None:
    local_ray = None if settings.ray_address else LocalRay(settings.data_dir)
    if local_ray is not None:
        use_token(settings.data_dir)
    # Ray takes a second to import, and checks for a token only then.
    from orchestrator.cluster.connection import RayConnection  # noqa: PLC0415
    from orchestrator.cluster.ray_inventory import RayCluster  # noqa: PLC0415
    from orchestrator.service.supervision.ray_runner import RayRunner  # noqa: PLC0415

    api_settings = _api_settings(settings, local=local)
    connection = RayConnection(settings.ray_address or local_ray or "")
    supervisor = Supervisor(
        store,
        RayRunner(connection, python=settings.python, grows=settings.autoscaling),
        settings.limits,
        preemption=settings.preemption,
        storage=settings.storage,
        allowed=api_settings.allowed,
    )
    app = _app(settings, api_settings, store, supervisor, RayCluster(connection))
    app.state.context.admission.warm()
    tasks = [supervisor.run()]
    if settings.keep_days:
        tasks.append(remove_old_jobs_hourly(store, runs_of(settings.data_dir), settings.keep_days))
    host, port = listener.getsockname()[:2]
    _log.info("serving http://%s:%d, data in %s", f"[{host}]" if ":" in host else host, port, settings.data_dir)
    await _run(app, listener, tasks)
    if local_ray is not None:
        await _stop_ray(local_ray, store)


def _api_settings(settings: ServerSettings, *, local: bool) -> ApiSettings:
    database = database_url(settings.database_url or database_of(settings.data_dir))
    file = database.database if database.get_backend_name() == "sqlite" else None
    return ApiSettings(
        local=local,
        require_token=settings.require_token,
        roots=settings.roots,
        owner_roots=settings.owner_roots,
        cache_roots=settings.cache_roots,
        reward_modules=settings.reward_modules,
        judge_hosts=settings.judge_hosts,
        judge_keys=settings.judge_keys,
        data_dir=settings.data_dir,
        database=Path(file) if file else None,
        limits=settings.limits,
        preemption=settings.preemption,
        storage=settings.storage is not None,
        keep_days=settings.keep_days,
    )


def _app(
    settings: ServerSettings, api_settings: ApiSettings, store: Store, supervisor: Supervisor, cluster: Cluster
) -> FastAPI:
    async def fits(spec: JobSpec, owner: str) -> None:
        check_fits(spec, settings.limits, supervisor.capacity)

    async def unready_reason() -> str | None:
        return supervisor.trouble

    try:
        tracing = tracing_of_environment()
    except TracingError as error:
        raise ServeError(str(error)) from error
    return create_app(
        store,
        api_settings,
        cluster=cluster,
        check_fits=fits,
        unready_reason=unready_reason,
        situation=supervisor.situation,
        tracing=tracing,
    )


async def _run(app: FastAPI, listener: socket.socket, background: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Serve until a signal arrives or a background task ends; raise the error of a background task."""
    server = _Server(server_config(app, timeout_graceful_shutdown=_STREAM_SECONDS))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.end)
    tasks = [asyncio.create_task(coroutine) for coroutine in background]
    for task in tasks:
        task.add_done_callback(lambda _: server.end())
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _stop_ray(local_ray: LocalRay, store: Store) -> None:
    """Stop the local Ray unless a job runs on it."""
    try:
        running = [job.id for job in await store.active()]
    except StoreUnavailableError as error:
        _log.warning("leaving the local Ray running: %s", error)
        local_ray.stop_starting()
        return
    if running:
        local_ray.stop_starting()
        _log.info("jobs continue without the service, on the local Ray: %s", ", ".join(running))
    else:
        await asyncio.to_thread(local_ray.stop)


class _Server(uvicorn.Server):
    """A server that leaves signals to its caller: uvicorn would re-raise them on exit, before the rest has ended."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()

    def end(self) -> None:
        """Stop serving. A second call does not wait for open requests."""
        self.force_exit = self.should_exit
        self.should_exit = True


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    try:
        lock = (data_dir / "service.lock").open("a+")
    except OSError as error:
        raise ServeError(f"{data_dir}: the data directory cannot be written: {error.strerror}") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ServeError(f"{data_dir}: a service runs on this data directory (process {file.read()})") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on a socket whose connections send data without delay. Raises ServeError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
        # Connections inherit it. asyncio sets it only on sockets that it creates; without it the second response on a
        # connection waits about 40 ms for the client to acknowledge the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServeError(f"cannot listen on {host}:{port}: {reason}") from error
    with listener:
        yield listener


def _is_valid(token: TokenRecord) -> bool:
    return token.expires_at is None or token.expires_at > datetime.now(UTC)


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback

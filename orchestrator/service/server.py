"""The service as one process: the API, the loop that looks after jobs, and what they share.

Invariants: on a data directory one service runs at a time. Where the loop ends with an error the process does, too: an
API that takes jobs nobody runs would be worse than none.
"""

import asyncio
import fcntl
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import uvicorn

from orchestrator.cluster.local_ray import LocalRay, bring_token
from orchestrator.job.spec import JobSpec
from orchestrator.places import HOST, PORT, database_of, runs_of
from orchestrator.schemas.job_state import ACTIVE
from orchestrator.service.api.app import create_app
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.observability.tracing import TracingError, tracing_of_environment
from orchestrator.service.store.access import TokenRecord
from orchestrator.service.store.store import Store, StoreUnavailableError
from orchestrator.service.supervision.limits import Limits, check_fits
from orchestrator.service.supervision.retention import keep_tidy
from orchestrator.service.supervision.supervisor import Supervisor

_DATABASE_SECONDS = 60.0
"""How long a database is waited for at the start."""
_STREAM_SECONDS = 5
"""Open requests get this long to end when the service does."""

_log = logging.getLogger(__name__)


class ServeError(ValueError):
    """The service cannot be started like this; one line."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What `earshot serve` is told."""

    data_dir: Path
    host: str = HOST
    port: int = PORT
    """0 takes a free one."""
    database_url: str | None = None
    """None: a file in the data directory."""
    ray_address: str | None = None
    """URL of a cluster's dashboard; None: a Ray on this machine."""
    autoscaling: bool = False
    """The cluster starts nodes on demand: what it has now bounds no job."""
    python: str = sys.executable
    """The interpreter with Earshot on the cluster's head node."""
    limits: Limits = field(default_factory=Limits)
    preemption: bool = False
    storage: str | None = None
    """A URL under which the jobs' runs are stored, too."""
    keep_days: float = 0
    """Jobs that ended longer ago are removed with their run directories; 0 keeps all."""
    roots: tuple[Path, ...] = (Path.home(),)
    reward_modules: tuple[str, ...] = ()
    judge_hosts: tuple[str, ...] = ()
    judge_keys: tuple[str, ...] = ()


async def serve(settings: ServerSettings) -> None:
    """Until SIGINT or SIGTERM.

    Raises:
        ServeError, DatabaseUrlError: before anything is started.
        StoreUnavailableError: the database did not answer at the start.
    """
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServeError(f"{settings.data_dir}: the data directory cannot be made: {error.strerror}") from error
    with _alone(settings.data_dir), listening(settings.host, settings.port) as listener:
        store = Store(settings.database_url or database_of(settings.data_dir), runs_of(settings.data_dir))
        async with _opened(store):
            local = _is_loopback(listener)
            if not local and not any(_is_valid(token) for token in await store.list_tokens()):
                raise ServeError(
                    f"{settings.host} is to be reached from other machines, and there is no token yet: make one with "
                    "`earshot token create`, or listen on 127.0.0.1"
                )
            await _serve(settings, store, listener, local=local)


async def _serve(settings: ServerSettings, store: Store, listener: socket.socket, *, local: bool) -> None:
    own = None if settings.ray_address else LocalRay(settings.data_dir)
    if own is not None:
        bring_token(settings.data_dir)
    # Ray takes a second to import, and looks once, then, whether there is a token.
    from orchestrator.cluster.connection import RayConnection  # noqa: PLC0415
    from orchestrator.cluster.ray_inventory import RayCluster  # noqa: PLC0415
    from orchestrator.service.supervision.ray_runner import RayRunner  # noqa: PLC0415

    connection = RayConnection(settings.ray_address or own or "")
    supervisor = Supervisor(
        store,
        RayRunner(connection, python=settings.python, grows=settings.autoscaling),
        settings.limits,
        preemption=settings.preemption,
        storage=settings.storage,
    )

    async def fits(spec: JobSpec, owner: str) -> None:
        check_fits(spec, settings.limits, supervisor.capacity)

    async def ready() -> str | None:
        return supervisor.trouble

    try:
        tracing = tracing_of_environment()
    except TracingError as error:
        raise ServeError(str(error)) from error
    app = create_app(
        store,
        ApiSettings(
            local=local,
            roots=settings.roots,
            reward_modules=settings.reward_modules,
            judge_hosts=settings.judge_hosts,
            judge_keys=settings.judge_keys,
            data_dir=settings.data_dir,
        ),
        cluster=RayCluster(connection),
        fits=fits,
        ready=ready,
        tracing=tracing,
    )
    server = _Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=_STREAM_SECONDS))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.end)
    host, port = listener.getsockname()[:2]
    _log.info("serving http://%s:%d, data in %s", f"[{host}]" if ":" in host else host, port, settings.data_dir)
    tasks = [asyncio.create_task(supervisor.run())]
    if settings.keep_days:
        tasks.append(asyncio.create_task(keep_tidy(store, runs_of(settings.data_dir), settings.keep_days)))
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
    if own is not None:
        await _leave(own, store)


async def _leave(own: LocalRay, store: Store) -> None:
    """End the Ray of the service's own unless a job runs on it."""
    try:
        running = [job.id for job in await store.unended() if job.state in ACTIVE]
    except StoreUnavailableError as error:
        _log.warning("the Ray on this machine is left running: %s", error)
        return
    if running:
        _log.info("jobs go on without the service, on the Ray on this machine: %s", ", ".join(running))
    else:
        await asyncio.to_thread(own.stop)


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it: uvicorn raises them again once it has ended, before the rest has."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()

    def end(self) -> None:
        """Stop serving; a second time without waiting for open requests."""
        self.force_exit = self.should_exit
        self.should_exit = True


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    with (data_dir / "service.lock").open("a+") as file:
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
    """A socket whose connections send what they have at once. Raises ServeError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
        # Its connections inherit it. asyncio sets it on sockets of its own making only; without it a second answer on a
        # connection waits some 40 ms for the client to acknowledge the first.
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


@asynccontextmanager
async def _opened(store: Store) -> AsyncIterator[None]:
    """The store, once its database answers."""
    deadline = time.monotonic() + _DATABASE_SECONDS
    while True:
        try:
            await store.__aenter__()
            break
        except StoreUnavailableError as error:
            if time.monotonic() > deadline:
                raise
            _log.warning("waiting for the database: %s", error)
            await asyncio.sleep(1)
    try:
        yield
    finally:
        await store.__aexit__()

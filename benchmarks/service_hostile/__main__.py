"""Latency and memory of a service during ten thousand hostile requests.

The service runs in a process of its own, as `earshot serve` runs it but without Ray. From another one, two users send
hostile requests on real sockets, each on a new connection, `RATE` per second together: those of `attacks.py`, and what
only a socket can send (`raw.py`): headers of 8 MiB, half-sent requests, bodies of chunks of one byte, responses that
nobody reads. Meanwhile a third user asks for a job, a list and metrics, in an open loop, each request timed from when
it was due.

The value is the 99th percentile of that user's requests; `passed` is true if it is below 100 ms, the resident memory of
the service stays below 600 MiB, no response but a documented 503 is a server error, and none has a byte of the other
user's data.
"""

import argparse
import asyncio
import functools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import uvicorn

from benchmarks.service_hostile.campaign import run_campaign
from benchmarks.service_hostile.owners import Owner, make_owner, write_traps
from benchmarks.support.result import Result
from orchestrator.places import database_of, runs_of
from orchestrator.service.api.app import create_app
from orchestrator.service.api.connection.protocol import server_config
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.store.store import Store

REQUESTS, RATE, ORDINARY_RATE = 10_000, 50.0, 30.0
MAX_MS, MAX_MIB = 100.0, 600.0
PORT = 8438
Outcome = TypeVar("Outcome")


def serve(data_dir: Path, roots: dict[str, str], port: int) -> None:
    """Serve the API without a supervisor."""

    async def run() -> None:
        async with Store(database_of(data_dir), runs_of(data_dir)) as store:
            settings = ApiSettings(
                require_token=True,
                roots=(),
                owner_roots={name: (Path(folder),) for name, folder in roots.items()},
                data_dir=data_dir,
                database=data_dir / "earshot.db",
            )
            await uvicorn.Server(server_config(create_app(store, settings), port=port, host="127.0.0.1")).serve()

    asyncio.run(run())


@contextmanager
def served(data_dir: Path, roots: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    """Run the service within the context."""
    words = ["--serve", "--data-dir", str(data_dir), "--roots", json.dumps(roots), "--port", str(PORT)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.service_hostile", *words], stdout=output, stderr=output
        )
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    httpx.get(f"http://127.0.0.1:{PORT}/healthz").raise_for_status()
                    break
                except httpx.TransportError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise SystemExit(f"the service did not start: {log.read_text()[-2000:]}") from None
                    time.sleep(0.1)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


class Memory:
    """The resident memory of the service: of its own process, and of those that check jobs."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.own_mib: list[float] = []
        self.checks_mib: list[float] = []

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            self.own_mib.append(self._process.memory_info().rss / 2**20)
            checks = 0.0
            for child in self._process.children(recursive=True):
                try:
                    checks += child.memory_info().rss / 2**20
                except psutil.NoSuchProcess:
                    continue
            self.checks_mib.append(checks)
            await asyncio.sleep(0.25)


async def ask(token: str, job: str, rate: float, times: dict[str, list[float]], failed: list[str]) -> None:
    """Send ordinary requests when they are due, until cancelled."""
    paths = {"job": f"/v1/jobs/{job}", "list": "/v1/jobs?limit=50", "metrics": f"/v1/jobs/{job}/metrics"}
    headers = {"Authorization": f"Bearer {token}"}
    limits = httpx.Limits(max_connections=50, max_keepalive_connections=50)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{PORT}", timeout=30, limits=limits, headers=headers
    ) as client:

        async def one(name: str, due: float) -> None:
            try:
                answer = await client.get(paths[name])
                if answer.status_code != 200:
                    failed.append(f"{name}: {answer.status_code} {answer.text[:200]}")
            except httpx.HTTPError as error:
                failed.append(f"{name}: {type(error).__name__}")
            times[name].append(1000 * (time.perf_counter() - due))

        start, number = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while True:
                due = start + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(one(list(paths)[number % len(paths)], due))
                number += 1


async def measure(
    process: psutil.Process, owners: tuple[Owner, Owner, Owner], traps: list[list[str]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Attack the service, and measure what another user notices."""
    ada, eve, carol = owners
    memory = Memory(process)
    times: dict[str, list[float]] = {"job": [], "list": [], "metrics": []}
    quiet: dict[str, list[float]] = {name: [] for name in times}
    failed: list[str] = []

    async def beside(found: dict[str, list[float]], other: Awaitable[Outcome]) -> Outcome:
        asking = asyncio.create_task(ask(carol.token, carol.jobs["running"], ORDINARY_RATE, found, failed))
        try:
            return await other
        finally:
            asking.cancel()
            await asyncio.wait([asking])

    watching = asyncio.create_task(memory.watch())
    await beside(quiet, asyncio.sleep(10))
    before = memory.own_mib[-1]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as others:
        campaign = functools.partial(run_campaign, (ada, eve), traps, PORT, arguments.requests, arguments.rate)
        findings = await beside(times, asyncio.get_running_loop().run_in_executor(others, campaign))
    watching.cancel()
    return {
        "requests": arguments.requests,
        "hostile_per_second": round(findings.per_second, 1),
        "ordinary_per_second": ORDINARY_RATE,
        "milliseconds": {name: _percentiles(found) for name, found in times.items()},
        "all_milliseconds": _percentiles([one for found in times.values() for one in found]),
        "quiet_milliseconds": _percentiles([one for found in quiet.values() for one in found]),
        "ordinary_failed": failed[:20],
        "memory_mib": {
            "before": round(before, 1),
            "most": round(max(memory.own_mib), 1),
            "most_of_processes_that_check_jobs": round(max(memory.checks_mib), 1),
        },
        "statuses": {kind: dict(sorted(found.items())) for kind, found in sorted(findings.statuses.items())},
        "busy": dict(findings.busy),
        "server_errors": findings.errors[:20],
        "leaks": findings.leaks[:20],
    }


def _percentiles(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"median": round(cuts[49], 2), "p99": round(cuts[98], 2), "longest": round(max(times), 2)}


async def prepare(home: Path) -> tuple[tuple[Owner, Owner, Owner], list[list[str]]]:
    """Create the users, their jobs and their files."""
    data_dir = home / "service"
    data_dir.mkdir()
    async with Store(database_of(data_dir), runs_of(data_dir)) as store:
        ada, eve, carol = [await make_owner(store, name, home / "users" / name) for name in ("ada", "eve", "carol")]
    return (ada, eve, carol), [write_traps(ada, eve, data_dir), write_traps(eve, ada, data_dir)]


def publish(details: dict[str, Any]) -> None:
    """Write the result, and exit with code 1 if a bound does not hold."""
    bounds = {
        f"p99_below_{MAX_MS:g}_ms": details["all_milliseconds"]["p99"] < MAX_MS,
        f"memory_below_{MAX_MIB:g}_mib": details["memory_mib"]["most"] < MAX_MIB,
        "no_server_error": not details["server_errors"],
        "no_data_of_others": not details["leaks"],
        "ordinary_requests_answered": not details["ordinary_failed"],
    }
    passed = all(bounds.values())
    details = {"passed": passed, "bounds": bounds, **details}
    Result("service_hostile", details["all_milliseconds"]["p99"], "ms", "lower", details).publish()
    if not passed:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--rate", type=float, default=RATE, help="Hostile requests per second.")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--roots", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.data_dir, json.loads(arguments.roots), arguments.port)
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        owners, traps = asyncio.run(prepare(home))
        roots = {owner.name: str(owner.folder) for owner in owners}
        with served(home / "service", roots, home / "service.log") as process:
            details = asyncio.run(measure(process, owners, traps, arguments))
    publish(details)


if __name__ == "__main__":
    main()

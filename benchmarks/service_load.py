"""Latency of the service under load, while a job trains on the same cores.

`earshot serve` runs in a separate process, with 10,000 jobs in its store and the demo on its Ray (`--no-demo`: only the
API, without Ray). A second process generates the load: `GET /v1/jobs/{id}` at 200 requests per second in an open loop,
so that a late response delays no later request, each timed from when it was due; 500 streams of one job's events, each
event timed from its writing to its arrival on the last stream; lists; and a million metric points of a job in 1,000
buckets.

The value is the 99th percentile of `GET /v1/jobs/{id}`; `passed` is true if it is below 50 ms, each of the 500 streams
has every event once, and the 99th percentiles of lists are below 50 ms and of metrics below 200 ms.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from sqlalchemy import insert

from benchmarks.support.result import Result
from orchestrator.client import EarshotClient
from orchestrator.cluster.local_ray import LocalRay
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import read_spec
from orchestrator.places import database_of, runs_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.files import METRICS
from orchestrator.run.metrics import METRIC_NAMES
from orchestrator.schemas.job_state import JobState
from orchestrator.service.api.app import create_app
from orchestrator.service.api.connection.protocol import server_config
from orchestrator.service.store.store import Store
from orchestrator.service.store.tables import jobs, transitions

JOBS, STREAMS, RATE, SECONDS, POINTS = 10_000, 500, 200.0, 30.0, 1_000_000
MAX_MS = {"job": 50.0, "list": 50.0, "metrics": 200.0}
_SPEC = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}, "steps": 40_000}
_EXAMPLE = Path(__file__).parent.parent / "examples" / "demo.yaml"


def _row(data_dir: Path, job: str, state: JobState, number: int = 0) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "id": job,
        "name": f"job-{number % 50}",
        "owner": "local" if number % 2 else "ada",
        "state": state.value,
        "priority": 0,
        "spec": JobSpec.model_validate(_SPEC).model_dump(mode="json"),
        "gpus": 0.0,
        "created_at": now,
        "updated_at": now,
        "attempt": 1,
        "restarts": 0,
        "max_restarts": 3,
        "run_dir": str(runs_of(data_dir) / job),
        "body_hash": "0" * 64,
    }


async def fill(data_dir: Path, count: int) -> None:
    """Insert finished jobs, in one transaction."""
    now = datetime.now(UTC)
    rows = [
        _row(data_dir, f"{i:016x}", JobState.SUCCEEDED if i % 3 else JobState.FAILED, i) | {"finished_at": now}
        for i in range(count)
    ]
    async with Store(database_of(data_dir), runs_of(data_dir)) as store, store._database.write() as connection:
        await connection.execute(insert(jobs), rows)
        history = [{"job_id": row["id"], "to_state": row["state"], "at": now} for row in rows]
        await connection.execute(insert(transitions), history)


def write_metrics(data_dir: Path, job: str, points: int) -> RunDirectory:
    """Write a run with this number of points over all metrics."""
    names, chance = METRIC_NAMES[1:], random.Random(0)
    run = RunDirectory.create(runs_of(data_dir) / job, "name: load\n")
    with (run.path / METRICS).open("w") as file:
        for step in range(-(-points // len(names))):
            file.write(json.dumps({"step": step, **{name: chance.random() for name in names}}) + "\n")
    run.append_event(EventKind.STATE, state="running")
    return run


@contextmanager
def served(data_dir: Path, demo: bool) -> Iterator[str]:
    """Run the service within the context, and yield its URL."""
    earshot = [str(Path(sys.executable).parent / "earshot"), "serve", "--max-running", "1"]
    alone = [sys.executable, "-m", "benchmarks.service_load", "--serve"]
    command = [*(earshot if demo else alone), "--data-dir", str(data_dir), "--port", "8437"]
    with (data_dir / "service.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = "http://127.0.0.1:8437"
            _wait_for(lambda: httpx.get(f"{url}/healthz").is_success, 120, process)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            # Ray keeps running after the service has stopped, so that jobs continue.
            LocalRay(data_dir).stop()


def _wait_for(condition: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("the service did not start")


def serve_alone(data_dir: Path, port: int) -> None:
    """Serve the API without a supervisor."""

    async def run() -> None:
        async with Store(database_of(data_dir), runs_of(data_dir)) as store:
            await uvicorn.Server(server_config(create_app(store), port=port)).serve()

    asyncio.run(run())


async def open_loop(request: Callable[[], Awaitable[int]], rate: float, seconds: float) -> dict[str, float]:
    """Measure times in ms of requests that start when they are due, whether or not earlier ones have a response."""
    times: list[float] = []
    errors = 0

    async def one(due: float) -> None:
        nonlocal errors
        errors += await request() != 200
        times.append(1000 * (time.perf_counter() - due))

    start, tasks = time.perf_counter(), []
    for i in range(int(rate * seconds)):
        due = start + i / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return _percentiles(times) | {"errors": errors, "per_second": round(len(times) / (time.perf_counter() - start), 1)}


async def sequential(request: Callable[[], Awaitable[int]], count: int) -> dict[str, float]:
    """Measure times in ms of sequential requests."""
    times, errors = [], 0
    for _ in range(count):
        started = time.perf_counter()
        errors += await request() != 200
        times.append(1000 * (time.perf_counter() - started))
    return _percentiles(times) | {"errors": errors, "first": round(times[0], 1)}


def _percentiles(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"median": round(cuts[49], 2), "p99": round(cuts[98], 2), "longest": round(max(times), 2)}


async def follow(url: httpx.URL, path: str, ready: asyncio.Semaphore, arrived: list[list[float]], count: int) -> bool:
    """Follow one stream for `count` events. Return whether it had each once, in order."""
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=2**20)
    writer.write(f"GET {path}?tail=0 HTTP/1.1\r\nHost: {url.host}\r\nAccept: text/event-stream\r\n\r\n".encode())
    await reader.readuntil(b"still here")
    ready.release()
    for number in range(count):
        event = json.loads((await reader.readuntil(b"\n\n")).partition(b"data: ")[2].partition(b"\n")[0] or b"{}")
        while "number" not in event:  # a heartbeat, or the end of a chunk
            event = json.loads((await reader.readuntil(b"\n\n")).partition(b"data: ")[2].partition(b"\n")[0] or b"{}")
        if event["number"] != number:
            return False
        arrived[number].append(time.perf_counter())
    writer.close()
    return True


async def measure_streams(url: str, run: RunDirectory, count: int, events: int = 20) -> dict[str, float]:
    """Follow one job on many streams, and measure the time of each event to the last stream, in ms."""
    ready, arrived = asyncio.Semaphore(0), [list[float]() for _ in range(events)]
    path = f"/v1/jobs/{run.path.name}/events"
    streams = [asyncio.create_task(follow(httpx.URL(url), path, ready, arrived, events)) for _ in range(count)]
    async with asyncio.timeout(120):
        for _ in streams:
            await ready.acquire()
        written = []
        for number in range(events):
            written.append(time.perf_counter())
            run.append_event(EventKind.DATA, number=number)
            await asyncio.sleep(0.5)
        complete = await asyncio.gather(*streams)
    last = [1000 * (max(times) - start) for times, start in zip(arrived, written, strict=True)]
    return {"streams": count, "whole": sum(complete), "event_to_last_stream_ms": round(statistics.median(last), 1)}


async def load(url: str, job: str, run: RunDirectory, seconds: float) -> dict[str, Any]:
    """Run all measurements sequentially."""
    limits = httpx.Limits(max_connections=50, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:

        async def get(path: str) -> int:
            return (await client.get(path)).status_code

        details: dict[str, Any] = {}
        await open_loop(lambda: get(f"/v1/jobs/{job}"), 50, 3)
        details["job"] = await open_loop(lambda: get(f"/v1/jobs/{job}"), RATE, seconds)
        details["list"] = await sequential(lambda: get("/v1/jobs?limit=50"), 200)
        details["list_of_an_owner_in_a_state"] = await sequential(lambda: get("/v1/jobs?owner=ada&state=failed"), 200)
        details["metrics"] = await sequential(lambda: get(f"/v1/jobs/{run.path.name}/metrics?points=1000"), 30)
        details["metrics_of_one_name"] = await sequential(
            lambda: get(f"/v1/jobs/{run.path.name}/metrics?names=reward/mean&points=1000"), 30
        )
        details["streams"] = await measure_streams(url, run, STREAMS)
        return details


async def add_waiting(data_dir: Path, job: str) -> None:
    """Add a queued job of the lowest priority that never starts: its streams do not end, and its run can be written."""
    async with Store(database_of(data_dir), runs_of(data_dir)) as store, store._database.write() as connection:
        row = _row(data_dir, job, JobState.QUEUED) | {"priority": -100}
        await connection.execute(insert(jobs), [row])
        await connection.execute(
            insert(transitions), [{"job_id": job, "to_state": row["state"], "at": datetime.now(UTC)}]
        )


def run_load(url: str, data_dir: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the measurements, beside the demo unless `--no-demo` is set."""
    waiting = "f" * 16
    run = write_metrics(data_dir, waiting, POINTS)
    with EarshotClient(url) as client:
        job = waiting if arguments.no_demo else client.submit(read_spec(_EXAMPLE)).id
        if not arguments.no_demo:
            client.wait(job, states=["starting", "running"], timeout=120)
        asyncio.run(add_waiting(data_dir, waiting))
        if not arguments.no_demo:
            print("waiting for the demo's first step", file=sys.stderr, flush=True)
            while client.job(job).progress.step < 1:
                time.sleep(2)
        before = client.job(job).progress.step
        details = asyncio.run(load(url, job, run, arguments.seconds))
        if not arguments.no_demo:
            details["demo_steps_meanwhile"] = client.job(job).progress.step - before
            client.cancel(job)
            client.wait(job, timeout=120)
    return details


def publish(details: dict[str, Any], alone: bool) -> None:
    """Write the result, and exit with code 1 if a bound does not hold."""
    bounds = {
        f"{name}_below_{most:g}_ms": details[name]["p99"] < most and not details[name]["errors"]
        for name, most in MAX_MS.items()
    }
    bounds |= {
        "lists_of_an_owner_too": details["list_of_an_owner_in_a_state"]["p99"] < MAX_MS["list"],
        "rate_kept": details["job"]["per_second"] > 0.97 * RATE,
        "streams_whole": details["streams"]["whole"] == STREAMS,
    }
    passed = all(bounds.values())
    details = {"passed": passed, "bounds": bounds, "beside_the_demo": not alone, "jobs": JOBS, **details}
    Result("service_load", details["job"]["p99"], "ms", "lower", details).publish()
    if not passed:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-demo", action="store_true", help="Measure only the API, without Ray and a job.")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_alone(arguments.data_dir, arguments.port)
        return
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        asyncio.run(fill(data_dir, JOBS))
        with served(data_dir, not arguments.no_demo) as url:
            details = run_load(url, data_dir, arguments)
    publish(details, arguments.no_demo)


if __name__ == "__main__":
    main()

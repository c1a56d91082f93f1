"""Cost of a long queue: rounds of the supervisor and requests with 5,000 queued jobs, compared with 50.

Store, supervisor and API are those of `earshot serve`, in this process; two jobs run, and nothing else may start. Half
of the queued jobs are of an owner whose own limit is reached, so that the schedule has to pass all of them. Every
request is about another job, so that no cache answers it.

The value is the processor's time for a round with the long queue; `passed` is true if nothing takes more of it than
with the short one, by more than half and 2 ms.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert

from benchmarks.support.result import Result
from orchestrator.job.spec import JobSpec
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.schemas.job_state import JobState
from orchestrator.service.api.app import create_app
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import new_token, token_hash
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.store import Store
from orchestrator.service.store.tables import jobs, transitions
from orchestrator.service.supervision.limits import Capacity, Limits
from orchestrator.service.supervision.runner import Driver, DriverState
from orchestrator.service.supervision.supervisor import Supervisor

SHORT, LONG, TIMES, MOST_RATIO, MOST_MS = 50, 5_000, 200, 1.5, 2.0
_SPEC = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}


class RunningDrivers:
    """A cluster on which every driver runs and never ends."""

    async def start(self, submission_id: str, run_dir: Path) -> None:
        """Do nothing."""

    async def stop(self, submission_id: str) -> None:
        """Do nothing."""

    async def status(self, submission_id: str) -> Driver:
        """Return that the driver runs."""
        return Driver(DriverState.RUNNING)

    async def capacity(self) -> Capacity:
        """Return enough for anything."""
        return Capacity(1000, 1000)


def _row(runs: Path, number: int, state: JobState, owner: str) -> dict[str, Any]:
    now = datetime.now(UTC) - timedelta(seconds=10_000 - number)
    identifier, running = f"{number:016x}", state is JobState.RUNNING
    return {
        "id": identifier,
        "name": "job",
        "owner": owner,
        "state": state.value,
        "priority": number % 3,
        "spec": JobSpec.model_validate(_SPEC).model_dump(mode="json"),
        "gpus": 0.0,
        "created_at": now,
        "updated_at": now,
        "started_at": now if running else None,
        "attempt": int(running),
        "restarts": 0,
        "max_restarts": 3,
        "run_dir": str(runs / identifier),
        "submission_id": f"{identifier}-1" if running else None,
        "body_hash": "0" * 64,
    }


async def fill(store: Store, runs: Path, queued: int) -> list[str]:
    """Insert two running jobs and a queue; return the ids of the queued jobs."""
    rows = [_row(runs, number, JobState.RUNNING, "ada") for number in range(2)]
    rows += [_row(runs, 2 + number, JobState.QUEUED, "ada" if number % 2 else "bob") for number in range(queued)]
    for row in rows[:2]:
        run = RunDirectory.create(row["run_dir"], "name: job\n")
        run.append_event(EventKind.ATTEMPT, submission_id=row["submission_id"], pid=1)
        run.append_event(EventKind.STATE, state="running")
    async with store._database.write() as connection:
        await connection.execute(insert(jobs), rows)
        history = [{"job_id": row["id"], "to_state": row["state"], "at": row["created_at"]} for row in rows]
        await connection.execute(insert(transitions), history)
    return [row["id"] for row in rows[2:]]


async def timed(action: Callable[[int], Awaitable[object]], count: int = TIMES) -> dict[str, float]:
    """Return times in ms of an action that is done again and again, for at most ten seconds.

    `cpu` is the median of the processor's time, of all threads; the others are of the clock.
    """
    times: list[float] = []
    used: list[float] = []
    while len(times) < count and (len(times) < 3 or sum(times) < 10_000):
        started, before = time.perf_counter(), time.process_time()
        await action(len(times))
        used.append(1000 * (time.process_time() - before))
        times.append(1000 * (time.perf_counter() - started))
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"cpu": round(statistics.median(used), 2), "median": round(cuts[49], 2), "p99": round(cuts[98], 2)}


async def measure(queued: int) -> dict[str, dict[str, float]]:
    """Measure everything with a number of queued jobs."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        async with Store(sqlite_url(home / "earshot.db"), home / "runs") as store:
            ids = await fill(store, home / "runs", queued)
            limits = Limits(running=2, running_per_user=2)
            supervisor = Supervisor(store, RunningDrivers(), limits, preemption=True)
            all_held = Supervisor(store, RunningDrivers(), Limits(running=9, running_per_user=2, gpus=0))
            token = new_token()
            await store.create_token(name="x", owner="root", role=Role.ADMIN, token_hash=token_hash(token))
            app = create_app(store, ApiSettings(roots=(home,), requests_per_second=1e9, request_burst=10**9))
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=headers
            ) as client:

                async def ask(method: str, path: str, **more: Any) -> None:
                    response = await client.request(method, path, **more)
                    assert response.is_success, response.text

                # The last actions change the queue, by as many jobs as there are, at most.
                return {
                    "round": await timed(lambda _: supervisor.round()),
                    "round_past_held_jobs": await timed(lambda _: all_held.round()),
                    "metrics": await timed(lambda _: ask("GET", "/metrics")),
                    "list": await timed(lambda _: ask("GET", "/v1/jobs?limit=50")),
                    "list_of_queued": await timed(lambda _: ask("GET", "/v1/jobs?limit=50&state=queued")),
                    "list_of_running": await timed(lambda _: ask("GET", "/v1/jobs?state=running&state=paused")),
                    "list_of_an_owners_running": await timed(
                        lambda _: ask("GET", "/v1/jobs?state=running&state=paused&owner=ada")
                    ),
                    "show": await timed(lambda number: ask("GET", f"/v1/jobs/{ids[number % len(ids)]}")),
                    "submit": await timed(lambda _: ask("POST", "/v1/jobs", json=_SPEC), 100),
                    "cancel": await timed(lambda number: ask("POST", f"/v1/jobs/{ids[number]}/cancel"), SHORT),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", help="Print the measurements, and write no result.")
    arguments = parser.parse_args()
    short, long = asyncio.run(measure(SHORT)), asyncio.run(measure(LONG))
    details: dict[str, Any] = {name: {str(SHORT): short[name], str(LONG): long[name]} for name in short}
    passed = all(long[name]["cpu"] <= MOST_RATIO * short[name]["cpu"] + MOST_MS for name in short)
    if arguments.print:
        for name, found in details.items():
            print(f"{name:28s} {json.dumps(found)}")
        return
    Result("long_queue", long["round"]["cpu"], "ms", "lower", {"passed": passed, **details}).publish()
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
